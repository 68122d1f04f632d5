// The list, the selected study, its actions. Every 30 s the list is read again; the selection stays.

import { read, write } from "./server.js";
import * as viewer from "./viewer.js";

const REFRESH_MS = 30_000;
const PAGE = 500; // studies that are read at a time
const byId = (id) => document.getElementById(id);

let me = { name: "", may_act: false };
let open = { items: [], counts: {}, alerts: [], as_of: null };
let finished = { items: [] }; // reported and closed; read while they are shown
let listName = "open";
let wanted = PAGE; // how many studies of the shown list; "show more" asks for the next ones
let selectedKey = null;
let study = null; // the selected study in full; null while it is on its way
let readAt = Date.now(); // when `open` was read, by this computer's clock
const drafts = new Map(); // study key and form -> what was typed and not saved
let choosing = 0; // counts selections, so that a late answer for an earlier one is dropped

// What each action is called, and the form that it needs; the server says which of them an item admits.
const ACTIONS = [
  { name: "acknowledge", label: "Acknowledge", key: "A", form: "acknowledge-form" },
  { name: "start_reading", label: "Start reading", key: "S" },
  { name: "take_over", label: "Take over" },
  { name: "report", label: "Final read", key: "F", form: "report-form" },
  { name: "close", label: "Close", key: "C" },
  { name: "release", label: "Release" },
  { name: "reopen", label: "Reopen" },
];

const LISTS = {
  open: {
    label: "Open studies, most urgent first", statuses: ["new", "acknowledged", "reading", "reopened"],
    all: () => open.counts.open, none: "No open studies.",
  },
  finished: {
    label: "Reported and closed studies, the last changed first", statuses: ["reported", "closed"],
    all: () => finishedCount(), none: "Nothing has been reported yet.",
  },
};

// --- small things ---------------------------------------------------------------------------------

function element(tag, { className, text, ...attributes } = {}, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function span(ms) {
  const minutes = Math.floor(Math.abs(ms) / 60_000);
  if (minutes < 60) return `${minutes} min`;
  if (minutes < 10 * 60) return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")}`;
  if (minutes < 48 * 60) return `${Math.floor(minutes / 60)} h`;
  return `${Math.floor(minutes / 1440)} days`;
}

// The server's time, also while it cannot be asked.
const now = () => (open.as_of === null ? Date.now() : new Date(open.as_of).getTime() + Date.now() - readAt);
const since = (moment) => span(now() - new Date(moment));
const clockFormat = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
const clock = (moment) => clockFormat.format(new Date(moment));
const shortKey = (key) => key.slice(0, 8);
const count = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;
const isFinished = (item) => LISTS.finished.statuses.includes(item.status);
const capital = (words) => words.charAt(0).toUpperCase() + words.slice(1);

function due(item) {
  const left = new Date(item.due_at) - now();
  return left < 0 ? `overdue ${span(left)}` : `due in ${span(left)}`;
}

const AI_CLASS = { urgent: "urgent", suspicious: "suspicious", "AI unavailable": "unavailable" };
const aiClass = (item) => `ai ${AI_CLASS[item.ai] ?? ""}`;

function say(sentence) {
  byId("notice").textContent = sentence;
  byId("notice").hidden = !sentence;
}

// --- the list --------------------------------------------------------------------------------------

const finishedCount = () => (open.counts.by_status.reported ?? 0) + (open.counts.by_status.closed ?? 0);
const listed = () => (listName === "open" ? open : finished).items;

// The first `length` studies of a list, page by page. Between two pages a study may have moved: none is shown twice.
async function readFirst(path, length) {
  const list = await read(`${path}?limit=${PAGE}`);
  let last = list;
  for (let offset = PAGE; offset < length && last.items.length === PAGE; offset += PAGE) {
    last = await read(`${path}?limit=${PAGE}&offset=${offset}`);
    list.items.push(...last.items);
  }
  list.items = [...new Map(list.items.map((item) => [item.study_key, item])).values()];
  return list;
}

async function refresh() {
  try {
    open = await readFirst("api/open", listName === "open" ? wanted : PAGE);
    if (listName === "finished") finished = await readFirst("api/finished", wanted);
  } catch (error) {
    sayConnection(error);
    if (open.as_of !== null) drawList(); // what is due becomes overdue meanwhile
    return;
  }
  readAt = Date.now();
  sayConnection(null);
  drawTop();
  drawLists();
  drawBodyParts();
  drawList();
  await followSelected();
}

// Of its own, so that no other message hides it, and that it goes when the list is up to date again.
function sayConnection(error) {
  const at = open.as_of === null ? "never" : new Date(readAt).toLocaleTimeString("en-GB");
  byId("freshness").textContent = error ? "not up to date" : `updated ${at}`;
  byId("connection").textContent = error ? `${error.message} This list is not up to date; it was last read: ${at}.` : "";
  byId("connection").hidden = !error;
}

function drawLists() {
  const counts = { open: open.counts.open, finished: finishedCount() };
  for (const button of byId("lists").children) {
    const name = button.dataset.list;
    button.setAttribute("aria-pressed", String(name === listName));
    button.replaceChildren(button.firstChild, " ", element("b", { text: counts[name] }));
  }
}

async function showList(name) {
  if (name === listName) return;
  listName = name;
  wanted = PAGE;
  drawStatuses();
  byId("items").setAttribute("aria-label", LISTS[name].label);
  byId("items").scrollTop = 0;
  await refresh();
}

function drawStatuses() {
  const select = byId("filters").elements.status;
  const options = LISTS[listName].statuses.map((status) => element("option", { text: status }));
  select.replaceChildren(element("option", { value: "", text: "all" }), ...options);
}

function drawTop() {
  const { counts } = open;
  const parts = [
    [counts.open, "open"],
    ...["STAT", "URGENT", "ROUTINE"].map((priority) => [counts.by_priority[priority] ?? 0, priority]),
    [counts.overdue, "overdue"],
    [counts.by_ai["AI unavailable"] ?? 0, "AI unavailable"],
  ];
  byId("counts").replaceChildren(
    ...parts.map(([number, word]) =>
      element("span", { className: word === "overdue" && number ? "overdue" : "" }, element("b", { text: number }), ` ${word}`),
    ),
  );
  const stopped = open.behind.map(({ what, since }) => `${what} ${since ? `since ${clock(since)}` : "yet"}.`);
  byId("behind").textContent = `${stopped.join(" ")} What is new may be missing here: is Airflow at work?`;
  byId("behind").hidden = stopped.length === 0;
  const alerts = byId("alerts");
  alerts.hidden = open.alerts.length === 0;
  alerts.querySelector("summary").textContent = count(open.alerts.length, "open alert");
  alerts.querySelector("ul").replaceChildren(
    ...open.alerts.map((alert) =>
      element("li", { text: `${alert.sentence} ` }, element("span", { className: "quiet", text: `since ${clock(alert.raised_at)}` })),
    ),
  );
}

function drawBodyParts() {
  const select = byId("filters").elements.body_part;
  const wanted = select.value;
  const known = [...new Set([...listed().map((item) => item.body_part), ...(wanted ? [wanted] : [])])].sort();
  select.replaceChildren(element("option", { value: "", text: "all" }), ...known.map((part) => element("option", { text: part })));
  select.value = wanted;
}

function shownItems() {
  const filters = new FormData(byId("filters"));
  return listed().filter((item) => [...filters].every(([name, value]) => !value || item[name] === value));
}

function drawList() {
  const items = shownItems();
  const list = byId("items");
  list.replaceChildren(...items.map(drawItem));
  const [read, all] = [listed().length, LISTS[listName].all()];
  const among = all > read ? ` among the first ${read} of ${all}` : "";
  const nothing = read ? `Nothing${among} matches these filters.` : LISTS[listName].none;
  const rest = all > read ? `, of the first ${read} of ${all}` : "";
  byId("more").hidden = all <= read;
  byId("more").textContent = `Show ${Math.min(PAGE, all - read)} more`;
  byId("shown").textContent = items.length ? `${count(items.length, "study").replace("studys", "studies")} shown${rest}` : nothing;
  markSelected();
}

function drawItem(item) {
  const who = isFinished(item) ? item.reader : item.holder;
  const work = who ? `${item.status}, ${who}` : item.status;
  const images = count(item.images, "image");
  const unscored = item.images_unscored && item.score !== null ? `, ${item.images_unscored} not scored` : "";
  return element(
    "li",
    { className: "item", role: "option", id: `item-${item.study_key}`, "data-key": item.study_key, "aria-selected": "false" },
    element("span", { className: `chip ${item.priority}`, text: item.priority }),
    element(
      "span",
      { className: `${aiClass(item)} clip`, text: `${item.ai} ` },
      element("span", { className: "score", text: item.score === null ? "" : item.score.toFixed(2) }),
    ),
    isFinished(item)
      ? element("span", { className: "end", text: READ_WORDS[item.final_read] })
      : element("span", { className: `end ${item.overdue ? "overdue" : ""}`, text: due(item), title: clock(item.due_at) }),
    element("span", { className: "key below", text: shortKey(item.study_key) }),
    element(
      "span",
      { className: "below clip" },
      element("span", { className: "part", text: item.body_part }),
      ` · ${images}${unscored} · ${work}`,
      hasDraft(item.study_key) ? element("span", { className: "unsaved", text: " · not saved" }) : "",
    ),
    isFinished(item)
      ? element("span", { className: "below end", text: `read ${since(item.read_at)} ago`, title: clock(item.read_at) })
      : element("span", { className: "below end", text: `waiting ${since(item.arrived_at)}`, title: clock(item.arrived_at) }),
  );
}

function markSelected() {
  const list = byId("items");
  for (const row of list.children) row.setAttribute("aria-selected", String(row.dataset.key === selectedKey));
  const row = selectedKey && byId(`item-${selectedKey}`);
  if (row) list.setAttribute("aria-activedescendant", row.id);
  else list.removeAttribute("aria-activedescendant");
}

function move(by) {
  const keys = shownItems().map((item) => item.study_key);
  if (!keys.length) return;
  const from = keys.indexOf(selectedKey);
  const to = from < 0 ? 0 : Math.min(keys.length - 1, Math.max(0, from + by));
  if (keys[to] !== selectedKey) select(keys[to]);
}

// --- the selected study ----------------------------------------------------------------------------

async function select(key) {
  keepDraft();
  closeForms();
  if (key !== selectedKey) forgetStudy(); // no key and no click may act on a study that is not on the screen
  selectedKey = key;
  history.replaceState(null, "", `#${key}`);
  say("");
  markSelected();
  byId(`item-${key}`)?.scrollIntoView({ block: "nearest" });
  await loadStudy({ keepImage: false });
}

function forgetStudy() {
  study = null;
  document.querySelector("main").classList.add("loading");
  viewer.clear();
}

async function loadStudy({ keepImage }) {
  const mine = ++choosing;
  const key = selectedKey;
  let loaded;
  try {
    loaded = await read(`api/items/${encodeURIComponent(key)}`);
  } catch (error) {
    if (mine === choosing) say(`Study ${shortKey(key)} could not be loaded. ${error.message}`);
    return;
  }
  if (mine !== choosing) return;
  drawStudy(loaded, { keepImage });
}

function drawStudy(next, { keepImage }) {
  study = next;
  document.querySelector("main").classList.remove("loading");
  byId("nothing").hidden = true;
  byId("viewer").hidden = byId("study").hidden = false;
  byId("study-title").replaceChildren(
    element("span", { className: `chip ${study.priority}`, text: study.priority }),
    study.body_part,
    element("span", { className: "key", text: shortKey(study.study_key) }),
  );
  byId("study-state").textContent = capital(study.status) + (study.holder ? `, held by ${study.holder}` : "");
  drawFacts();
  drawActions();
  drawHistory();
  viewer.showStudy(study, { keepImage });
  reopenDraft();
}

function drawFacts() {
  const facts = [["AI", element("span", { className: aiClass(study), text: study.ai })]];
  if (study.score !== null) {
    facts.push(["Score", study.score.toFixed(3)], ["Model version", modelCard(study.model_version)]);
    const points = study.operating_points;
    if (points) {
      facts.push(["Urgent from", points.t_specificity.toFixed(3)], ["Suspicious from", points.t_sensitivity.toFixed(3)]);
    }
  }
  facts.push(["Images", study.images_unscored ? `${study.images}, ${study.images_unscored} not scored` : study.images]);
  facts.push(["Ordered priority", study.ordered_priority], ["Arrived", clock(study.arrived_at)]);
  facts.push(["Due", clock(study.due_at)]);
  if (!isFinished(study)) {
    facts.push(["", element("span", { className: study.overdue ? "overdue" : "", text: due(study) })]);
  }
  byId("facts").replaceChildren(...facts.flatMap(([name, value]) => [element("dt", { text: name }), element("dd", {}, value)]));
}

function modelCard(version) {
  const address = `models/${version}/model_card.html`;
  const link = element("a", { href: address, title: "Its model card", text: version });
  link.addEventListener("click", (event) => {
    event.preventDefault();
    openDocument(`Model card, version ${version}`, address, `fracture-model-card-version-${version}.html`);
  });
  return link;
}

function openReport() {
  if (!study) return;
  const key = shortKey(study.study_key);
  const address = `reports/${encodeURIComponent(study.study_key)}.html`;
  openDocument(`Report of study ${key}`, address, `fracture-ai-report-${key}.html`);
}

// Above the page, and not in a new tab: Airflow's frame allows none.
function openDocument(title, address, fileName) {
  byId("document-title").textContent = byId("document-frame").title = title;
  byId("document-frame").src = byId("document-save").href = address;
  byId("document-save").download = fileName;
  byId("document").showModal();
}

function drawActions() {
  const buttons = study.actions.map((name) => {
    const action = ACTIONS.find((each) => each.name === name);
    const button = element("button", { type: "button", "data-action": action.name, text: action.label });
    if (action.key) {
      button.append(" ", element("kbd", { text: action.key }));
      button.setAttribute("aria-keyshortcuts", action.key.toLowerCase());
    }
    button.disabled = !me.may_act;
    button.addEventListener("click", () => begin(action));
    return button;
  });
  buttons[0]?.classList.add("main");
  if (!me.may_act) buttons.push(element("p", { text: "You may look, but not act: ask for Airflow's USER role." }));
  byId("actions").replaceChildren(...buttons);
}

const EVENT_WORDS = {
  listed: "listed", "re-ranked": "ranked again", acknowledged: "acknowledged", reading: "started reading",
  reported: "final read", closed: "closed", reopened: "reopened", released: "released",
};
const DETAIL_WORDS = {
  finding: "finding", found_at: "found", told_by: "told by", told_to: "told to", told_at: "received", told_how: "how",
  value: "read", comment: "comment", ai_priority: "AI", score: "score", version: "model version", new_images: "new images",
  taken_over_from: "taken over from",
};
const READ_WORDS = { positive: "fracture", negative: "no fracture", uncertain: "uncertain" };
const AI_WORDS = { urgent: "urgent", suspicious: "suspicious", below: "no finding flagged", unavailable: "unavailable" };

function drawHistory() {
  byId("history").replaceChildren(
    ...[...study.events].reverse().map((event) =>
      element(
        "li",
        {},
        element("p", {}, element("b", { text: EVENT_WORDS[event.event] ?? event.event }), ` · ${event.actor}`),
        element("time", { datetime: event.happened_at, text: clock(event.happened_at) }),
        element("p", { className: "said", text: describeDetails(event.details) }),
      ),
    ),
  );
}

function describeDetails(details) {
  return Object.entries(DETAIL_WORDS)
    .filter(([name]) => details[name] !== undefined && details[name] !== null && details[name] !== "")
    .map(([name, word]) => `${word}: ${describeDetail(name, details[name])}`)
    .join("; ");
}

function describeDetail(name, value) {
  if (name.endsWith("_at")) return clock(value);
  if (name === "value") return READ_WORDS[value];
  if (name === "ai_priority") return AI_WORDS[value];
  return name === "score" ? value.toFixed(3) : value;
}

// Somebody else may have changed the item that is on the screen: show it, but never under a form being filled in.
async function followSelected() {
  if (!study) return selectedKey ? loadStudy({ keepImage: false }) : undefined; // it could not be loaded before
  const shown = listName === "open" ? open.items : [...open.items, ...finished.items];
  const row = shown.find((item) => item.study_key === selectedKey);
  const changed = row ? row.row_version !== study.row_version : !isFinished(study);
  if (changed && !openForm()) await loadStudy({ keepImage: true });
  else drawFacts();
}

// --- actions ---------------------------------------------------------------------------------------

const forms = () => [byId("acknowledge-form"), byId("report-form")];
const openForm = () => forms().find((form) => !form.hidden);
const closeForms = () => forms().forEach((form) => (form.hidden = true));

// What was typed belongs to its study: it stays when somebody looks at another one, and is there when they come back.
const draftOf = (key, form) => `${key} ${form.id}`;
const valuesOf = (form) => Object.fromEntries(new FormData(form));
const hasDraft = (key) => forms().some((form) => drafts.has(draftOf(key, form)));

function isChanged(form) {
  const begun = JSON.parse(form.dataset.begun);
  const typed = valuesOf(form);
  return Object.keys({ ...begun, ...typed }).some((name) => begun[name] !== typed[name]);
}

function keepDraft() {
  const form = openForm();
  if (!form || !isChanged(form)) return;
  drafts.set(draftOf(form.dataset.study, form), valuesOf(form));
  drawList();
}

function forgetDraft(key, form) {
  if (drafts.delete(draftOf(key, form))) drawList();
}

function reopenDraft() {
  const action = ACTIONS.find(
    (each) => each.form && study.actions.includes(each.name) && drafts.has(draftOf(study.study_key, byId(each.form))),
  );
  if (action && me.may_act && !openForm()) showForm(action);
}

window.addEventListener("beforeunload", (event) => {
  keepDraft();
  if (drafts.size) event.preventDefault(); // the browser asks
});

function localNow() {
  const now = new Date();
  return new Date(now - now.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
}

function begin(action) {
  if (!study) return;
  if (!action.form) return act(action.name, {});
  const form = byId(action.form);
  if (form.hidden) {
    keepDraft();
    closeForms();
    showForm(action);
  }
  form.scrollIntoView({ block: "nearest" });
  form.querySelector("textarea, input").focus();
}

function showForm(action) {
  const form = byId(action.form);
  form.reset();
  if (action.name === "acknowledge") {
    form.elements.found_at.value = form.elements.told_at.value = localNow();
    form.elements.told_by.value = me.name;
  }
  form.dataset.study = study.study_key;
  form.dataset.begun = JSON.stringify(valuesOf(form));
  const draft = drafts.get(draftOf(study.study_key, form)) ?? {};
  for (const [name, value] of Object.entries(draft)) form.elements[name].value = value;
  form.hidden = false;
}

async function act(name, fields, form = null) {
  const { study_key: key, row_version } = study; // of what is on the screen
  let after;
  try {
    after = await write(`api/items/${encodeURIComponent(key)}/${name}`, { row_version, ...fields });
  } catch (error) {
    return recover(error, key);
  }
  if (form) forgetDraft(key, form);
  if (key === selectedKey) {
    choosing++;
    closeForms();
    say("");
    drawStudy(after, { keepImage: true });
    byId("items").focus({ preventScroll: true });
  }
  await refresh();
}

// What somebody typed stays on the screen: it may be sent again once they have seen what changed.
async function recover(error, key) {
  if (key !== selectedKey) {
    await refresh();
    return say(`Study ${shortKey(key)}, which you left, was not saved. ${error.message}`);
  }
  if (error.status === 409) {
    await loadStudy({ keepImage: true });
    await refresh();
  }
  if (error.status === 0) return say(`${error.message} It is not known whether this was saved: look at the study again.`);
  const kept = openForm() ? " What you wrote is kept: look again, then send it once more." : "";
  say(error.kind === "Conflict" ? `This item changed meanwhile; it has been reloaded.${kept}` : error.message);
}

function submitAcknowledgement(form) {
  const fields = valuesOf(form);
  for (const name of ["found_at", "told_at"]) fields[name] = new Date(fields[name]).toISOString();
  return act("acknowledge", fields, form);
}

function submitReport(form) {
  const shown = study.radiographs.map((each) => each.radiograph_id);
  return act("report", { ...valuesOf(form), radiograph_ids: shown }, form);
}

async function submitOnce(form, submit) {
  const button = form.querySelector("[type=submit]");
  button.disabled = true; // two clicks are one action
  try {
    await submit(form);
  } finally {
    button.disabled = false;
  }
}

byId("acknowledge-form").addEventListener("submit", (event) => {
  event.preventDefault();
  submitOnce(event.target, submitAcknowledgement);
});
byId("report-form").addEventListener("submit", (event) => {
  event.preventDefault();
  submitOnce(event.target, submitReport);
});
for (const cancel of document.querySelectorAll("[data-cancel]")) cancel.addEventListener("click", cancelForm);

function cancelForm() {
  const form = openForm();
  if (form) forgetDraft(form.dataset.study, form);
  closeForms();
  byId("items").focus({ preventScroll: true });
}

// --- keys and clicks -------------------------------------------------------------------------------

byId("items").addEventListener("click", (event) => {
  const row = event.target.closest(".item");
  if (row) select(row.dataset.key);
});
byId("lists").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) showList(button.dataset.list);
});
byId("more").addEventListener("click", () => {
  wanted += PAGE;
  refresh();
});
byId("filters").addEventListener("change", drawList);
byId("filters").addEventListener("submit", (event) => event.preventDefault());

byId("report").addEventListener("click", openReport);
byId("document-close").addEventListener("click", () => byId("document").close());
byId("document").addEventListener("close", () => byId("document-frame").removeAttribute("src"));

const KEYS = {
  ArrowDown: () => move(1), ArrowUp: () => move(-1), j: () => move(1), k: () => move(-1),
  PageDown: () => move(10), PageUp: () => move(-10), Home: () => move(-Infinity), End: () => move(Infinity),
  r: openReport, h: viewer.toggleHighlight, i: viewer.toggleInvert, "[": () => viewer.step(-1), "]": () => viewer.step(1),
  "Shift+ArrowLeft": () => viewer.pan(1, 0), "Shift+ArrowRight": () => viewer.pan(-1, 0),
  "Shift+ArrowUp": () => viewer.pan(0, 1), "Shift+ArrowDown": () => viewer.pan(0, -1),
  "+": () => viewer.zoomBy(1.4), "=": () => viewer.zoomBy(1.4), "-": () => viewer.zoomBy(1 / 1.4), 0: viewer.fit,
};

document.addEventListener("keydown", (event) => {
  if (byId("document").open) return; // it closes itself
  if (event.key === "Escape" && openForm()) return cancelForm();
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select")) return;
  const named = event.shiftKey && event.key.startsWith("Arrow") ? `Shift+${event.key}` : event.key;
  const key = named.length === 1 ? named.toLowerCase() : named;
  const action = ACTIONS.find((each) => each.key?.toLowerCase() === key);
  if (action) {
    const button = byId("actions").querySelector(`[data-action="${action.name}"]:enabled`);
    if (!button) return;
    event.preventDefault();
    button.click();
  } else if (KEYS[key] && (study || key.length > 1 || "jk".includes(key))) {
    event.preventDefault();
    KEYS[key]();
  }
});

// --- start -----------------------------------------------------------------------------------------

async function start() {
  drawStatuses();
  try {
    me = await read("api/me");
  } catch (error) {
    say(error.message);
  }
  await refresh();
  const named = decodeURIComponent(location.hash.slice(1));
  if (named) await select(named);
  if (study && isFinished(study)) await showList("finished");
  byId("items").focus({ preventScroll: true });
  // One refresh after another, also when one takes long.
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, REFRESH_MS));
    await refresh();
  }
}

start();
