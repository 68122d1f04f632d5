"""Who may do what on the worklist page, asked of Airflow's own app."""

import json
import uuid

import pytest

from fracture_ml.steps.worklist import rank_worklist
from tests.plugins.drawn import Access, Drawn, predict, promote_champion, receive

ACKNOWLEDGEMENT = {
    "finding": "fracture of the distal radius",
    "found_at": "2026-01-02T03:04:00Z",
    "told_by": "a.user",
    "told_to": "emergency department",
    "told_at": "2026-01-02T03:09:00Z",
    "told_how": "by telephone",
}


@pytest.fixture
def study(airflow_page: Access) -> Drawn:
    """A scored study of this test's own, on the list."""
    stores, drawn = airflow_page.stores, Drawn(name=uuid.uuid4().hex, scores=(0.9, 0.2))
    ids = receive(stores, drawn)
    champion = stores.registry.find_champion()
    version = champion.version if champion else promote_champion(stores)
    predict(stores, version, ids, drawn.scores)
    rank_worklist(stores, airflow_page.settings)
    return drawn


def body_of(path: str) -> dict:
    if path.endswith("/acknowledge"):
        return {"row_version": 1, **ACKNOWLEDGEMENT}
    return {"row_version": 1, "value": "positive"} if path.endswith("/report") else {"row_version": 1}


def filled(path: str, page: Access, study: Drawn) -> str:
    item = page.stores.worklist.item_of(study.study_key)
    return (
        path.lstrip("/")
        .replace("{study_key}", study.study_key)
        .replace("{radiograph_id}", str(item["radiograph_id"]))
        .replace("{version}", str(item["version"]))
        .replace("{action}", "close")
        .replace("{name}", "worklist.js")
        .replace("{document}", "model_card.html")
    )


def act(page: Access, study: Drawn, action: str, *, row_version: int, role: str = "USER", **fields) -> tuple[int, dict]:
    body = {"row_version": row_version, **fields}
    status, answer, _ = page.ask("POST", f"api/items/{study.study_key}/{action}", role=role, body=body)
    return status, json.loads(answer)


def test_nobody_gets_an_answer_from_any_route(airflow_page: Access, study: Drawn):
    assert len(airflow_page.routes) > 10
    for method, path in airflow_page.routes:
        body = body_of(path) if method == "POST" else None
        status, answer, _ = airflow_page.ask(method, filled(path, airflow_page, study), body=body)
        assert (status, json.loads(answer)) == (401, {"detail": "Not authenticated"}), path


def test_a_viewer_may_look_at_everything_and_change_nothing(airflow_page: Access, study: Drawn):
    before = airflow_page.stores.worklist.item_of(study.study_key)
    for method, path in airflow_page.routes:
        body = body_of(path) if method == "POST" else None
        status, _, _ = airflow_page.ask(method, filled(path, airflow_page, study), role="VIEWER", body=body)
        assert status == (403 if method == "POST" else 200), path
    assert airflow_page.stores.worklist.item_of(study.study_key) == before
    _, me, _ = airflow_page.ask("GET", "api/me", role="VIEWER")
    assert json.loads(me) == {"name": "a.viewer", "may_act": False}


def test_a_user_takes_an_item_from_new_to_closed_and_opens_it_again(airflow_page: Access, study: Drawn):
    steps = [
        ("acknowledge", ACKNOWLEDGEMENT, "acknowledged"),
        ("start_reading", {}, "reading"),
        ("release", {}, "new"),
        ("start_reading", {}, "reading"),
        ("report", {"value": "positive", "comment": "displaced"}, "reported"),
        ("close", {}, "closed"),
        ("reopen", {}, "reopened"),
    ]
    _, answer, _ = airflow_page.ask("GET", f"api/items/{study.study_key}", role="USER")
    item = json.loads(answer)
    for action, fields, status_after in steps:
        assert action in item["actions"]
        status, item = act(airflow_page, study, action, row_version=item["row_version"], **fields)
        assert (status, item["status"]) == (200, status_after), (action, item)
    assert [event["actor"] for event in item["events"]][1:] == ["a.user"] * len(steps)


def test_the_second_of_two_readers_is_told_to_look_again(airflow_page: Access, study: Drawn):
    assert act(airflow_page, study, "start_reading", row_version=1)[0] == 200
    status, answer = act(airflow_page, study, "start_reading", row_version=1)
    assert status == 409
    assert "Somebody else" in answer["detail"]


@pytest.mark.parametrize(
    ("headers", "refused_with"),
    [
        ({"Content-Type": "text/plain", "X-Fracture-Worklist": "1"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "application/json"}, 403),
    ],
)
def test_what_another_sites_form_could_send_is_refused(airflow_page: Access, study: Drawn, headers, refused_with):
    routes = [path for method, path in airflow_page.routes if method == "POST"]
    others = ("start_reading", "take_over", "close", "reopen", "release")
    assert [path.rsplit("/", 1)[1] for path in routes] == ["acknowledge", "report", "{action}"]
    for path in (*routes[:2], *(routes[2].replace("{action}", action) for action in others)):
        asked = filled(path, airflow_page, study)
        status, _, _ = airflow_page.ask("POST", asked, role="USER", body=body_of(path), headers=headers)
        assert status == refused_with, path
    assert airflow_page.stores.worklist.item_of(study.study_key)["status"] == "new"


def test_a_final_read_is_recorded_of_the_images_that_the_page_showed_with_what_was_said(airflow_page, study: Drawn):
    shown = airflow_page.stores.worklist.item_of(study.study_key)["images"][0]["radiograph_id"]
    fields = {"value": "uncertain", "comment": "another view, please", "radiograph_ids": [shown]}
    status, item = act(airflow_page, study, "report", row_version=1, **fields)
    assert (status, item["status"]) == (200, "reported")
    details = item["events"][-1]["details"]
    assert {name: details[name] for name in fields} == fields


def test_an_item_that_somebody_else_holds_is_read_by_a_user_after_taking_it_over(airflow_page, study: Drawn):
    airflow_page.stores.worklist.act(study.study_key, "acknowledge", actor="somebody else", row_version=1)
    status, refused = act(airflow_page, study, "report", row_version=2, value="positive")
    assert (status, refused["error"]) == (409, "HeldByAnother")
    status, item = act(airflow_page, study, "take_over", row_version=2)
    assert (status, item["status"], item["holder"]) == (200, "reading", "a.user")


def test_an_acknowledgement_is_the_users_own_whoever_told_whom(airflow_page, study: Drawn):
    told = {**ACKNOWLEDGEMENT, "told_by": "dr a"}
    status, item = act(airflow_page, study, "acknowledge", row_version=1, **told)
    assert (status, item["holder"], item["events"][-1]["actor"]) == (200, "a.user", "a.user")
    assert item["events"][-1]["details"]["told_by"] == "dr a"


def test_a_highlight_is_of_the_version_and_the_image_that_were_asked_for(airflow_page, study: Drawn):
    item = airflow_page.stores.worklist.item_of(study.study_key)
    flagged, below = (image["radiograph_id"] for image in item["images"])
    for what in ("overlays", "highlighted"):
        for version, radiograph_id, expected in (
            (item["version"], flagged, 200),
            (item["version"] + 1000, flagged, 404),
            (item["version"], below, 404),
        ):
            status, _, _ = airflow_page.ask("GET", f"{what}/{version}/{radiograph_id}.png", role="VIEWER")
            assert status == expected, (what, version, radiograph_id)
    images = [airflow_page.ask("GET", f"images/{id_}.png", role="VIEWER")[1] for id_ in (flagged, below, flagged)]
    assert images[0] == images[2] != images[1]


def test_faults_are_sentences(airflow_page: Access, study: Drawn):
    faults = [
        ("GET", "api/items/nobody-knows-this", None, 404),
        ("GET", "images/999999999.png", None, 404),
        ("GET", "overlays/999/999999999.png", None, 404),
        ("GET", "highlighted/999/999999999.png", None, 404),
        ("GET", "static/..%2Fapp.py", None, 404),
        ("GET", "static/app.py", None, 404),
        ("POST", f"api/items/{study.study_key}/report", {"row_version": 1, "value": "perhaps"}, 422),
        ("POST", f"api/items/{study.study_key}/close", {"row_version": 1}, 409),
        ("POST", f"api/items/{study.study_key}/acknowledge", {"row_version": 1}, 422),
    ]
    for method, path, body, expected in faults:
        status, answer, _ = airflow_page.ask(method, path, role="USER", body=body)
        assert status == expected, (path, answer)
        sentence = json.loads(answer)["detail"]
        assert isinstance(sentence, str) and len(sentence) > 8, path
        assert "Traceback" not in sentence


def test_no_person_is_named_to_the_browser(airflow_page: Access, study: Drawn):
    answers = [airflow_page.ask("GET", path, role="USER")[1] for path in ("api/open", f"api/items/{study.study_key}")]
    for answer in answers:
        assert study.study_key.encode() in answer
        for identifying in (b"Jane", b"Doe", b"patient", b"inbox", b"object_key"):
            assert identifying not in answer


def test_the_page_brings_its_own_security_headers_and_nothing_heavy(airflow_page: Access):
    _, html, headers = airflow_page.ask("GET", "", role="USER")
    assert "frame-ancestors 'self'" in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"
    assert b"Research use only, not a medical device" in html
    assert b'href="/' not in html and b'src="/' not in html and b"_blank" not in html
    assert airflow_page.heavy_modules == []
