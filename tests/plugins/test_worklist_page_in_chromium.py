"""The worklist page as a person uses it, in a real Chromium, logged in to Airflow's own app."""

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from fracture_ml.core.records import BodyPart, Priority
from fracture_ml.steps.worklist import rank_worklist
from tests.plugins.drawn import Access, Drawn, predict, promote_champion, receive
from tests.stores.stored_rows import arrival as drawn_row

playwright = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")

RUN = uuid.uuid4().hex
URGENT = Drawn(name=f"urgent {RUN}", scores=(0.2, 0.93), ordered=Priority.STAT, body_part=BodyPart.HIP)
BELOW = Drawn(name=f"below {RUN}", scores=(0.05,), body_part=BodyPart.ANKLE)
UNAVAILABLE = Drawn(name=f"unavailable {RUN}", scores=(None,), body_part=BodyPart.KNEE)
HELD = Drawn(name=f"held {RUN}", scores=(0.5,), body_part=BodyPart.FOOT)
TYPED = Drawn(name=f"typed {RUN}", scores=(0.1,), body_part=BodyPart.WRIST)
FINISHED = Drawn(name=f"finished {RUN}", scores=(0.1,), body_part=BodyPart.ELBOW)
FLAGGED = Drawn(name=f"flagged {RUN}", scores=(0.92,), body_part=BodyPart.FOREARM)
LEFT = Drawn(name=f"left {RUN}", scores=(0.3,), body_part=BodyPart.LEG)
STUDIES = (URGENT, BELOW, UNAVAILABLE, HELD, TYPED, FINISHED, FLAGGED, LEFT)


@pytest.fixture(scope="module")
def listed(airflow_page: Access) -> None:
    stores = airflow_page.stores
    ids = [receive(stores, study) for study in STUDIES]
    champion = stores.registry.find_champion()
    version = champion.version if champion else promote_champion(stores)
    for study, its_ids in zip(STUDIES, ids, strict=True):
        predict(stores, version, its_ids, study.scores)
    rank_worklist(stores, airflow_page.settings)


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=quiet)
        yield opened
        opened.close()


def log_in(browser, page: Access, role: str):
    """An empty tab of a fresh browser with Airflow's cookie."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(15_000)
    cookie = {"name": "_token", "value": page.tokens[role], "domain": "127.0.0.1", "path": "/", "httpOnly": True}
    context.add_cookies([cookie])
    return context.new_page()


def open_page(browser, page: Access, role: str):
    """The page in a fresh browser, and what its console complains about."""
    opened, complaints = log_in(browser, page, role), []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.clock.install()
    opened.goto(page.url)
    opened.wait_for_selector(".item")
    return opened, complaints


def row(opened, study: Drawn):
    return opened.locator(f"#item-{study.study_key}")


def test_a_study_is_looked_at_acknowledged_and_read_with_the_keyboard(
    airflow_page: Access, listed, browser, tmp_path: Path
):
    opened, complaints = open_page(browser, airflow_page, "USER")
    expect = playwright.expect
    expect(row(opened, URGENT)).to_contain_text("STAT")
    expect(row(opened, URGENT)).to_contain_text("urgent 0.93")
    expect(row(opened, BELOW)).to_contain_text("no finding flagged 0.05")
    expect(row(opened, UNAVAILABLE)).to_contain_text("AI unavailable")
    expect(opened.get_by_text("Research use only, not a medical device")).to_be_visible()
    expect(opened.locator("#behind")).to_contain_text("No ingest of new radiographs has ended yet.")
    for step in ("ingest", "scoring"):
        airflow_page.stores.monitoring.note_done(step)

    row(opened, URGENT).click()
    expect(row(opened, URGENT)).to_have_attribute("aria-selected", "true")
    expect(opened.locator("#radiograph")).to_be_visible()
    expect(opened.locator("#which-image")).to_have_text("image 2 of 2")  # the one that decides
    expect(opened.locator("#overlay")).to_be_visible()
    expect(opened.get_by_text("AI attention, not a lesion boundary")).to_be_visible()
    with_highlight = opened.locator("#stage").screenshot()
    with opened.expect_download() as saving:
        opened.get_by_role("link", name="Save picture").click()
    assert saving.value.suggested_filename.endswith("-ai-attention.png")
    with Image.open(saving.value.path()) as saved:
        assert saved.format == "PNG" and saved.width == 240

    opened.keyboard.press("h")
    for gone in ("#overlay", "#box", "#highlight-label"):
        expect(opened.locator(gone)).to_be_hidden()
    assert opened.locator("#stage").screenshot() != with_highlight
    plain = opened.locator("#stage").screenshot()
    opened.locator("#overlay").evaluate("image => image.removeAttribute('src')")
    assert opened.locator("#stage").screenshot() == plain, "off: nothing of the highlight is left"

    opened.keyboard.press("a")
    opened.get_by_label("Finding").fill("fracture of the femoral neck")
    opened.get_by_label("Told to").fill("emergency department")
    opened.keyboard.press("Enter")
    expect(opened.locator("#study-state")).to_have_text("Acknowledged, held by a.user")
    opened.keyboard.press("s")
    expect(opened.locator("#study-state")).to_have_text("Reading, held by a.user")
    opened.keyboard.press("f")
    opened.get_by_label("Fracture", exact=True).check()
    opened.get_by_label("Comment").fill("displaced")
    opened.get_by_role("button", name="Save final read").click()
    expect(opened.locator("#study-state")).to_contain_text("Reported")
    expect(opened.locator("#history")).to_contain_text("read: fracture; comment: displaced")
    expect(row(opened, URGENT)).to_have_count(0)
    expect(opened.locator("#behind")).to_be_hidden()
    opened.screenshot(path=tmp_path / "reported.png")

    opened.get_by_role("button", name="Reported, closed").click()
    expect(row(opened, URGENT)).to_contain_text("reported, a.user")
    expect(row(opened, URGENT)).to_contain_text("fracture")
    expect(row(opened, BELOW)).to_have_count(0)
    opened.screenshot(path=tmp_path / "finished.png")
    opened.keyboard.press("c")
    expect(opened.locator("#study-state")).to_contain_text("Closed")
    expect(row(opened, URGENT)).to_contain_text("closed, a.user")
    opened.get_by_role("button", name="Reopen").click()
    expect(row(opened, URGENT)).to_have_count(0)
    opened.locator("[data-list=open]").click()
    expect(row(opened, URGENT)).to_contain_text("reopened")
    assert complaints == []


def test_a_studys_report_is_shown_saved_and_printed_also_in_airflows_frame(
    airflow_page: Access, listed, browser, tmp_path: Path
):
    opened = log_in(browser, airflow_page, "VIEWER")
    expect = playwright.expect
    opened.goto(airflow_page.url.removesuffix("fracture-worklist/"))
    opened.get_by_role("link", name="Fracture worklist").click(timeout=30_000)
    framed = opened.frame_locator("iframe")
    framed.locator(f"#item-{FLAGGED.study_key}").click(timeout=30_000)
    expect(framed.locator("#radiograph")).to_be_visible()
    expect(framed.locator("#image-facts")).to_contain_text("strongest middle")
    framed.locator("#report").click()
    document = framed.frame_locator("#document-frame")
    title = f"Fracture AI report: forearm, study {FLAGGED.study_key[:8]}"
    expect(document.get_by_role("heading", level=1)).to_have_text(title)
    expect(document.get_by_text("Strongest at the middle of the picture")).to_be_visible()
    opened.screenshot(path=tmp_path / "report_in_the_page.png")
    with opened.expect_download() as saving:
        framed.get_by_role("link", name="Save", exact=True).click()
    assert saving.value.suggested_filename == f"fracture-ai-report-{FLAGGED.study_key[:8]}.html"
    opened.keyboard.press("Escape")
    expect(framed.locator("#document")).to_be_hidden()
    framed.get_by_title("Its model card").click()
    expect(document.get_by_text("a card")).to_be_visible()
    framed.locator("#document-close").click()
    expect(framed.locator("#document")).to_be_hidden()

    alone = browser.new_page()
    saving.value.save_as(tmp_path / "report.html")
    alone.goto((tmp_path / "report.html").as_uri())
    widths = alone.locator("img").evaluate_all("images => images.map(image => image.naturalWidth)")
    assert widths == [240, 240]  # the plain one, and the one with the attention
    alone.screenshot(path=tmp_path / "report.png", full_page=True)
    alone.pdf(path=tmp_path / "report.pdf", format="A4")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


def test_a_change_by_somebody_else_is_said_and_the_item_reloaded(airflow_page: Access, listed, browser):
    opened, complaints = open_page(browser, airflow_page, "USER")
    row(opened, BELOW).click()
    opened.locator("[data-action=start_reading]").wait_for()
    item = airflow_page.stores.worklist.item_of(BELOW.study_key)
    airflow_page.stores.worklist.act(
        BELOW.study_key, "start_reading", actor="b.reader", row_version=item["row_version"]
    )
    opened.keyboard.press("s")
    playwright.expect(opened.get_by_role("alert")).to_have_text("This item changed meanwhile; it has been reloaded.")
    playwright.expect(opened.locator("#study-state")).to_have_text("Reading, held by b.reader")
    assert complaints == []


def test_a_late_image_under_a_form_loses_nothing_that_was_typed_and_is_there_to_be_looked_at(
    airflow_page: Access, listed, browser, tmp_path: Path
):
    expect, stores = playwright.expect, airflow_page.stores
    opened, complaints = open_page(browser, airflow_page, "USER")
    row(opened, TYPED).click()
    expect(opened.locator("#radiograph")).to_be_visible()
    opened.keyboard.press("f")
    opened.get_by_label("Fracture", exact=True).check()
    opened.get_by_label("Comment").fill("displaced")
    with_late_view = Drawn(name=TYPED.name, scores=(0.1, 0.95), body_part=BodyPart.WRIST)
    late = receive(stores, with_late_view, first=1)
    predict(stores, stores.registry.find_champion().version, late, (0.95,))
    rank_worklist(stores, airflow_page.settings)
    opened.get_by_role("button", name="Save final read").click()
    expect(opened.get_by_role("alert")).to_contain_text("What you wrote is kept")
    expect(opened.get_by_label("Comment")).to_have_value("displaced")
    expect(opened.locator("#which-image")).to_have_text("image 1 of 2")  # the one that was looked at
    expect(opened.locator("#study-title")).to_contain_text("URGENT")
    opened.screenshot(path=tmp_path / "kept.png")
    opened.locator("#next-image").click()
    expect(opened.locator("#image-facts")).to_contain_text("AI score 0.95")
    opened.get_by_role("button", name="Save final read").click()
    expect(opened.locator("#study-state")).to_contain_text("Reported")
    expect(opened.locator("#history")).to_contain_text("read: fracture; comment: displaced")
    assert complaints == []


def test_an_item_that_somebody_else_holds_is_taken_over_before_it_is_read(airflow_page: Access, listed, browser):
    item = airflow_page.stores.worklist.item_of(HELD.study_key)
    airflow_page.stores.worklist.act(HELD.study_key, "acknowledge", actor="b.reader", row_version=item["row_version"])
    opened, complaints = open_page(browser, airflow_page, "USER")
    row(opened, HELD).click()
    buttons = opened.locator("#actions button")
    playwright.expect(buttons).to_have_text(["Take over"])
    opened.keyboard.press("f")
    playwright.expect(opened.locator("#report-form")).to_be_hidden()
    buttons.click()
    playwright.expect(opened.locator("#study-state")).to_have_text("Reading, held by a.user")
    playwright.expect(opened.locator("#history")).to_contain_text("taken over from: b.reader")
    assert complaints == []


def test_a_link_to_a_reported_study_shows_the_list_that_it_is_on(airflow_page: Access, listed, browser):
    stores = airflow_page.stores
    item = stores.worklist.item_of(FINISHED.study_key)
    stores.worklist.act(
        FINISHED.study_key, "report", actor="b.reader", row_version=item["row_version"], details={"value": "negative"}
    )
    opened = log_in(browser, airflow_page, "USER")
    opened.goto(f"{airflow_page.url}#{FINISHED.study_key}")
    playwright.expect(row(opened, FINISHED)).to_have_attribute("aria-selected", "true")
    playwright.expect(row(opened, FINISHED)).to_contain_text("no fracture")
    playwright.expect(opened.locator("[data-list=finished]")).to_have_attribute("aria-pressed", "true")


def test_a_viewer_is_told_why_the_buttons_are_off(airflow_page: Access, listed, browser):
    opened, _ = open_page(browser, airflow_page, "VIEWER")
    row(opened, UNAVAILABLE).click()
    playwright.expect(opened.locator("#actions")).to_contain_text("You may look, but not act")
    playwright.expect(opened.locator("[data-action=acknowledge]")).to_be_disabled()
    playwright.expect(opened.locator("#highlight")).to_be_disabled()


def test_filters_and_a_refresh_keep_the_selection(airflow_page: Access, listed, browser):
    opened, _ = open_page(browser, airflow_page, "USER")
    row(opened, UNAVAILABLE).click()
    opened.get_by_label("Body part").select_option("knee")
    playwright.expect(row(opened, BELOW)).to_have_count(0)
    with opened.expect_response(lambda answer: "api/open" in answer.url):
        opened.clock.fast_forward(31_000)
    playwright.expect(row(opened, UNAVAILABLE)).to_have_attribute("aria-selected", "true")
    playwright.expect(opened.get_by_label("Body part")).to_have_value("knee")


@pytest.mark.parametrize("answer", ["never", "503"])
def test_no_key_acts_on_a_study_that_is_not_on_the_screen(airflow_page: Access, listed, browser, answer):
    expect, written = playwright.expect, []
    opened, complaints = open_page(browser, airflow_page, "USER")
    opened.on("request", lambda request: written.append(request.url) if request.method == "POST" else None)
    row(opened, LEFT).click()
    expect(opened.locator("#study-title")).to_contain_text("leg")
    expect(opened.locator("#radiograph")).to_be_visible()
    refuse = {"status": 503, "json": {"detail": "Postgres cannot be reached."}}
    of_it = f"**/api/items/{FLAGGED.study_key}"
    opened.route(of_it, lambda route: route.fulfill(**refuse) if answer == "503" else None)
    row(opened, FLAGGED).click()
    for gone in ("#study-title", "#radiograph", "[data-action=start_reading]"):
        expect(opened.locator(gone)).to_be_hidden()
    for key in ("s", "f", "a", "h"):
        opened.keyboard.press(key)
    if answer == "503":
        said = opened.get_by_role("alert")
        expect(said).to_have_text(f"Study {FLAGGED.study_key[:8]} could not be loaded. Postgres cannot be reached.")
    opened.unroute(of_it)
    opened.clock.fast_forward(31_000)  # it is asked for again
    expect(opened.locator("#study-title")).to_contain_text("forearm")
    expect(opened.locator("#report-form")).to_be_hidden()
    assert written == [] and complaints == []


def test_what_was_typed_stays_with_its_study_until_it_is_saved(airflow_page: Access, listed, browser, tmp_path: Path):
    expect = playwright.expect
    opened, complaints = open_page(browser, airflow_page, "USER")
    row(opened, LEFT).click()
    opened.locator("[data-action=report]").wait_for()
    opened.keyboard.press("f")
    opened.get_by_label("Uncertain").check()
    opened.get_by_label("Comment").fill("look again tomorrow")
    opened.locator("#stage").click()
    opened.keyboard.press("f")  # once more
    expect(opened.get_by_label("Comment")).to_have_value("look again tomorrow")
    opened.locator("#stage").click()
    row(opened, FLAGGED).click()
    expect(opened.locator("#study-title")).to_contain_text("forearm")
    expect(opened.locator("#report-form")).to_be_hidden()
    expect(row(opened, LEFT)).to_contain_text("not saved")
    opened.screenshot(path=tmp_path / "draft.png")
    row(opened, LEFT).click()
    expect(opened.get_by_label("Comment")).to_have_value("look again tomorrow")
    expect(opened.get_by_label("Uncertain")).to_be_checked()
    # Left while it is on its way, and lost there: it is said of which study, and the words are still there.
    opened.route("**/report", lambda route: (opened.wait_for_timeout(500), route.abort()))
    opened.get_by_role("button", name="Save final read").click()
    row(opened, FLAGGED).click()
    expect(opened.get_by_role("alert")).to_contain_text(f"Study {LEFT.study_key[:8]}, which you left, was not saved")
    opened.unroute("**/report")
    row(opened, LEFT).click()
    expect(opened.get_by_label("Comment")).to_have_value("look again tomorrow")
    opened.get_by_role("button", name="Save final read").click()
    expect(opened.locator("#history")).to_contain_text("read: uncertain; comment: look again tomorrow")
    assert complaints == []


def test_a_list_that_is_not_up_to_date_says_so_until_it_is(airflow_page: Access, listed, browser, tmp_path: Path):
    expect = playwright.expect
    opened, complaints = open_page(browser, airflow_page, "USER")
    connection, freshness = opened.locator("#connection"), opened.locator("#freshness")
    expect(freshness).to_contain_text("updated")
    opened.route("**/api/open*", lambda route: None)  # a server that says nothing
    with opened.expect_request("**/api/open*"):
        opened.clock.fast_forward(31_000)
    opened.clock.fast_forward(21_000)
    expect(connection).to_contain_text("The server does not answer. This list is not up to date; it was last read: ")
    expect(freshness).to_have_text("not up to date")
    row(opened, UNAVAILABLE).click()  # another message's coming and going changes nothing
    expect(opened.locator("#study-title")).to_contain_text("knee")
    expect(connection).to_be_visible()
    opened.screenshot(path=tmp_path / "stale.png")
    opened.unroute("**/api/open*")
    opened.clock.fast_forward(31_000)
    expect(connection).to_be_hidden()
    expect(freshness).to_contain_text("updated")
    assert complaints == []


def test_a_highlight_that_cannot_be_loaded_is_not_taken_for_none(airflow_page: Access, listed, browser, tmp_path: Path):
    opened, complaints = open_page(browser, airflow_page, "USER")
    opened.route("**/overlays/**", lambda route: route.fulfill(status=503, json={"detail": "Storage is away."}))
    row(opened, FLAGGED).click()
    playwright.expect(opened.locator("#radiograph")).to_be_visible()
    playwright.expect(opened.locator("#highlight-label")).to_have_text(
        "The AI highlighted something here, and the highlight could not be loaded"
    )
    playwright.expect(opened.locator("#highlight")).to_have_attribute("aria-pressed", "false")
    opened.screenshot(path=tmp_path / "no_highlight.png")
    opened.unroute("**/overlays/**")
    row(opened, BELOW).click()
    row(opened, FLAGGED).click()
    playwright.expect(opened.locator("#overlay")).to_be_visible()
    playwright.expect(opened.locator("#highlight-label")).to_have_text("AI attention, not a lesion boundary")
    assert complaints == []


def test_a_zoomed_image_is_moved_with_the_keyboard(airflow_page: Access, listed, browser):
    opened, _ = open_page(browser, airflow_page, "USER")
    row(opened, UNAVAILABLE).click()
    playwright.expect(opened.locator("#radiograph")).to_be_visible()

    def place() -> str:
        return opened.locator("#frame").evaluate("frame => frame.style.transform")

    for key in ("+", "+", "Shift+ArrowRight", "Shift+ArrowDown", "Shift+ArrowLeft", "Shift+ArrowUp"):
        before = place()
        opened.keyboard.press(key)
        assert place() != before, key
    playwright.expect(row(opened, UNAVAILABLE)).to_have_attribute("aria-selected", "true")  # no other study


def test_a_list_that_is_longer_than_a_page_says_so_and_shows_the_rest(airflow_page: Access, listed, browser):
    stores = airflow_page.stores
    before = stores.worklist.counts()["open"]
    more = [drawn_row(f"{RUN} {number}", study_key=f"{RUN}-{number}") for number in range(520)]
    stores.radiographs.record_radiographs(more, near_duplicate_bits=0)
    rank_worklist(stores, airflow_page.settings, arrivals_only=True)
    opened, complaints = open_page(browser, airflow_page, "USER")
    items, expect = opened.locator(".item"), playwright.expect
    expect(items).to_have_count(500)
    expect(opened.locator("#shown")).to_contain_text(f"of the first 500 of {before + 520}")
    opened.get_by_label("Status").select_option("acknowledged")
    if not items.count():
        expect(opened.locator("#shown")).to_contain_text(f"Nothing among the first 500 of {before + 520} matches")
    opened.get_by_label("Status").select_option("all")
    opened.get_by_role("button", name=f"Show {before + 20} more").click()
    expect(items).to_have_count(before + 520)
    expect(opened.locator("#more")).to_be_hidden()
    assert len(set(items.evaluate_all("rows => rows.map(row => row.id)"))) == before + 520
    assert complaints == []


def test_the_page_works_inside_airflows_own_frame(airflow_page: Access, listed, browser):
    opened = log_in(browser, airflow_page, "USER")
    opened.goto(airflow_page.url.removesuffix("fracture-worklist/"))
    opened.get_by_role("link", name="Fracture worklist").click(timeout=30_000)
    framed = opened.frame_locator("iframe")
    framed.locator(f"#item-{UNAVAILABLE.study_key}").click(timeout=30_000)
    playwright.expect(framed.locator("#radiograph")).to_be_visible()
