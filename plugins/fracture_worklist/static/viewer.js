// The image of a study: the plain radiograph, the AI highlight above it, zoom, pan, invert.

import { fetchPicture } from "./server.js";

const byId = (id) => document.getElementById(id);
const MAX_ZOOM = 12;
const ATTENTION = "AI attention, not a lesion boundary";

const stage = byId("stage");
const frame = byId("frame");
const radiographImage = byId("radiograph");
const overlayImage = byId("overlay");
const box = byId("box");
const message = byId("image-message");

let study = null;
let place = 0; // which of the study's images
let highlightWanted = true;
let inverted = false;
let zoom = { scale: 1, x: 0, y: 0 };
let highlightFault = ""; // why the highlight of the shown image is not there, though the AI made one
let loading = null; // AbortController of the image that is on its way
let blobUrls = [];

// keepImage: the study is read again; the image that is looked at stays, and so does its zoom.
export function showStudy(next, { keepImage }) {
  const shown = keepImage && study ? study.radiographs[place] : null;
  const indexOf = (id) => next.radiographs.findIndex((each) => each.radiograph_id === id);
  study = next;
  const kept = shown ? indexOf(shown.radiograph_id) : -1;
  if (kept < 0) return showImage(Math.max(0, indexOf(next.radiograph_id)));
  place = kept;
  drawPager();
  const now = study.radiographs[place];
  if (now.version !== shown.version || now.has_overlay !== shown.has_overlay) load(now);
  else byId("image-facts").textContent = describe(now);
}

// Another study is on its way: nothing of this one stays on the screen.
export function clear() {
  loading?.abort();
  forgetPictures();
  study = null;
}

function showImage(index) {
  place = index;
  fit();
  drawPager();
  load(study.radiographs[place]);
}

function drawPager() {
  const count = study.radiographs.length;
  byId("pager").hidden = count < 2;
  byId("which-image").textContent = `image ${place + 1} of ${count}`;
  byId("previous-image").disabled = place === 0;
  byId("next-image").disabled = place === count - 1;
}

async function load(radiograph) {
  loading?.abort();
  loading = new AbortController();
  const { signal } = loading;
  forgetPictures();
  highlightFault = "";
  say("Loading the image…");
  byId("image-facts").textContent = describe(radiograph);
  drawHighlight();
  try {
    const [plain, highlight] = await Promise.all([
      fetchPicture(`images/${radiograph.radiograph_id}.png`, signal),
      radiograph.has_overlay
        ? fetchPicture(`overlays/${radiograph.version}/${radiograph.radiograph_id}.png`, signal).catch(goOnWithout)
        : null,
    ]);
    if (signal.aborted) return;
    radiographImage.src = remember(plain);
    radiographImage.alt = `Radiograph, ${describe(radiograph)}`;
    radiographImage.hidden = false;
    if (highlight) overlayImage.src = remember(highlight);
    say("");
    drawHighlight();
  } catch (error) {
    if (!signal.aborted) say(error.message);
  }
}

// Without its highlight a radiograph is still worth looking at; the image then says that it is missing.
function goOnWithout(error) {
  if (error.name === "AbortError") throw error;
  highlightFault = "The AI highlighted something here, and the highlight could not be loaded";
  return null;
}

function remember(blob) {
  const url = URL.createObjectURL(blob);
  blobUrls.push(url);
  return url;
}

function forgetPictures() {
  radiographImage.hidden = true;
  radiographImage.removeAttribute("src");
  overlayImage.removeAttribute("src");
  blobUrls.forEach((url) => URL.revokeObjectURL(url));
  blobUrls = [];
}

function describe(radiograph) {
  const words = [radiograph.view, radiograph.laterality && { L: "left", R: "right", B: "both sides" }[radiograph.laterality]];
  const score = radiograph.score === null ? radiograph.reason ?? "not scored" : `AI score ${radiograph.score.toFixed(2)}`;
  return [...words, score, radiograph.place && `strongest ${radiograph.place}`].filter(Boolean).join(" · ");
}

function drawHighlight() {
  const radiograph = study.radiographs[place];
  const there = overlayImage.hasAttribute("src");
  const shown = highlightWanted && there && !radiographImage.hidden;
  overlayImage.hidden = !shown;
  box.toggleAttribute("hidden", !(shown && radiograph.box));
  if (radiograph.box) {
    box.setAttribute("viewBox", `0 0 ${radiograph.width_px} ${radiograph.height_px}`);
    const rectangle = box.firstElementChild;
    for (const name of ["x", "y", "width", "height"]) rectangle.setAttribute(name, radiograph.box[name]);
  }
  const label = byId("highlight-label");
  label.hidden = !(shown || highlightFault);
  label.textContent = highlightFault || ATTENTION;
  label.classList.toggle("fault", Boolean(highlightFault));
  const usable = radiograph.has_overlay && !highlightFault;
  const button = byId("highlight");
  button.setAttribute("aria-pressed", String(highlightWanted && usable));
  button.disabled = !usable;
  const save = byId("save-picture");
  save.hidden = !radiograph.has_overlay;
  if (radiograph.has_overlay) save.href = `highlighted/${radiograph.version}/${radiograph.radiograph_id}.png`;
  button.title = highlightFault || (radiograph.has_overlay ? ATTENTION : "The AI highlighted nothing in this image");
}

function say(sentence) {
  message.textContent = sentence;
  message.hidden = !sentence;
}

export function toggleHighlight() {
  if (byId("highlight").disabled) return;
  highlightWanted = !highlightWanted;
  drawHighlight();
}

export function toggleInvert() {
  inverted = !inverted;
  frame.classList.toggle("inverted", inverted);
  byId("invert").setAttribute("aria-pressed", String(inverted));
}

export function step(by) {
  const next = place + by;
  if (study && next >= 0 && next < study.radiographs.length) showImage(next);
}

// --- zoom and pan ------------------------------------------------------------------------------------

export function fit() {
  setZoom({ scale: 1, x: 0, y: 0 });
}

export function zoomBy(factor, x = stage.clientWidth / 2, y = stage.clientHeight / 2) {
  const scale = Math.min(MAX_ZOOM, Math.max(1, zoom.scale * factor));
  const grown = scale / zoom.scale;
  setZoom({ scale, x: x - (x - zoom.x) * grown, y: y - (y - zoom.y) * grown });
}

export function pan(toLeft, toTop) {
  const by = (size) => size / 8;
  setZoom({ ...zoom, x: zoom.x + toLeft * by(stage.clientWidth), y: zoom.y + toTop * by(stage.clientHeight) });
}

function setZoom({ scale, x, y }) {
  const least = (size) => size * (1 - scale);
  zoom = {
    scale,
    x: Math.min(0, Math.max(least(stage.clientWidth), x)),
    y: Math.min(0, Math.max(least(stage.clientHeight), y)),
  };
  frame.style.transform = `translate(${zoom.x}px, ${zoom.y}px) scale(${zoom.scale})`;
}

stage.addEventListener(
  "wheel",
  (event) => {
    event.preventDefault();
    const { left, top } = stage.getBoundingClientRect();
    zoomBy(Math.exp(-event.deltaY / 400), event.clientX - left, event.clientY - top);
  },
  { passive: false },
);
stage.addEventListener("dblclick", fit);
stage.addEventListener("pointerdown", (event) => {
  stage.setPointerCapture(event.pointerId);
  stage.classList.add("dragging");
});
stage.addEventListener("pointermove", (event) => {
  if (stage.hasPointerCapture(event.pointerId)) {
    setZoom({ ...zoom, x: zoom.x + event.movementX, y: zoom.y + event.movementY });
  }
});
stage.addEventListener("lostpointercapture", () => stage.classList.remove("dragging"));

byId("highlight").addEventListener("click", toggleHighlight);
byId("invert").addEventListener("click", toggleInvert);
byId("zoom-in").addEventListener("click", () => zoomBy(1.4));
byId("zoom-out").addEventListener("click", () => zoomBy(1 / 1.4));
byId("zoom-fit").addEventListener("click", fit);
byId("previous-image").addEventListener("click", () => step(-1));
byId("next-image").addEventListener("click", () => step(1));
