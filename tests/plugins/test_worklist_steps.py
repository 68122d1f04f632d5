"""The steps behind the worklist and its page."""

import io
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import text

from fracture_ml.core.errors import Conflict, HeldByAnother, NotAllowed, ObjectNotFound, UnknownItem
from fracture_ml.core.records import BodyPart, LabelValue, Priority, WorklistStatus
from fracture_ml.steps import worklist
from fracture_ml.stores import Stores
from fracture_ml.stores.database import transaction
from tests.plugins.drawn import POINTS, Drawn, draw_bone, png_of, predict, promote_champion, put_on_list, receive

FOUND_AT = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
TOLD_AT = FOUND_AT + timedelta(minutes=5)
ACKNOWLEDGEMENT = {
    "finding": "fracture",
    "found_at": FOUND_AT,
    "told_by": "reader",
    "told_to": "ward",
    "told_at": TOLD_AT,
    "told_how": "in person",
}
DETAILS = {"acknowledge": ACKNOWLEDGEMENT, "report": {"value": "positive"}}
ACTIONS = ("acknowledge", "start_reading", "take_over", "report", "close", "reopen", "release")
WAYS = {
    WorklistStatus.NEW: (),
    WorklistStatus.ACKNOWLEDGED: ("acknowledge",),
    WorklistStatus.READING: ("start_reading",),
    WorklistStatus.REPORTED: ("report",),
    WorklistStatus.CLOSED: ("report", "close"),
    WorklistStatus.REOPENED: ("report", "reopen"),
}


def drawn(**facts) -> Drawn:
    return Drawn(name=uuid.uuid4().hex, **facts)


def act(stores: Stores, study: Drawn, action: str, *, row_version: int | None = None, actor: str = "reader") -> dict:
    """As the reader who looks at the item and acts at once, or saw it at `row_version`."""
    row_version = row_version or worklist.item(stores, study.study_key, reader="reader")["row_version"]
    seen = {"actor": actor, "row_version": row_version}
    if action in DETAILS:
        return getattr(worklist, action)(stores, study.study_key, **seen, **DETAILS[action])
    return worklist.act(stores, study.study_key, action, **seen)


def test_without_a_champion_studies_are_listed_as_unavailable_at_their_ordered_priority(fresh_stores, settings):
    study = drawn(scores=(0.9,), ordered=Priority.URGENT)
    receive(fresh_stores, study)
    worklist.rank_worklist(fresh_stores, settings)
    item = worklist.item(fresh_stores, study.study_key, reader="reader")
    assert (item["priority"], item["ai"], item["score"]) == ("URGENT", "AI unavailable", None)


def test_a_long_list_is_ranked_part_by_part(fresh_stores, settings, monkeypatch):
    monkeypatch.setattr(worklist, "STUDIES_PER_STATEMENT", 2)
    studies = [drawn() for _ in range(5)]
    for study in studies:
        receive(fresh_stores, study)
    assert worklist.rank_worklist(fresh_stores, settings) == {"ranked": 5, "unavailable": 5}
    listed = {row["study_key"] for row in worklist.open_list(fresh_stores, limit=10)["items"]}
    assert listed == {study.study_key for study in studies}


def test_ranking_twice_changes_nothing_the_second_time(stores, settings):
    study = drawn(scores=(0.2, 0.9))
    put_on_list(stores, settings, study)
    once = worklist.item(stores, study.study_key, reader="reader")
    assert worklist.rank_worklist(stores, settings) == {"ranked": 0}
    assert worklist.item(stores, study.study_key, reader="reader") == once
    assert (once["priority"], once["ai"], once["images"]) == ("URGENT", "urgent", 2)
    assert once["score"] == pytest.approx(0.9)
    assert [event["event"] for event in once["events"]] == ["listed"]


def test_old_labelled_studies_do_not_flood_the_list_where_the_place_wants_none_of_them(stores, settings):
    quiet = settings.model_copy(update={"list_labelled": False})
    worklist.rank_worklist(stores, settings)  # what other tests left
    old, listed_before = drawn(scores=(0.9,)), drawn(scores=(0.2,))  # each image of `drawn` comes with a label
    put_on_list(stores, settings, listed_before)
    receive(stores, old)
    assert worklist.rank_worklist(stores, quiet) == {"ranked": 0, "kept_off": 1}
    assert worklist.rank_worklist(stores, quiet) == {"ranked": 0}
    with pytest.raises(UnknownItem):
        worklist.item(stores, old.study_key, reader="reader")
    assert worklist.item(stores, listed_before.study_key, reader="reader")["status"] == "new"
    assert worklist.rank_worklist(stores, settings)["ranked"] == 1
    assert worklist.item(stores, old.study_key, reader="reader")["status"] == "new"


def test_a_changed_setting_reaches_what_is_listed_and_leaves_what_was_read(stores, settings):
    hip, read = drawn(scores=(0.9,), body_part=BodyPart.HIP), drawn(scores=(0.9,))
    put_on_list(stores, settings, hip)
    put_on_list(stores, settings, read)
    act(stores, read, "report")
    assert worklist.item(stores, hip.study_key, reader="reader")["priority"] == "STAT"
    off = settings.model_copy(update={"prioritisation": False})
    worklist.rank_worklist(stores, off)
    assert worklist.item(stores, hip.study_key, reader="reader")["priority"] == "ROUTINE"
    assert worklist.item(stores, read.study_key, reader="reader")["status"] == "reported"
    assert worklist.rank_worklist(stores, off) == {"ranked": 0}
    worklist.rank_worklist(stores, settings)
    assert worklist.item(stores, hip.study_key, reader="reader")["priority"] == "STAT"


def test_the_times_and_the_regions_that_a_place_set_reach_the_list(stores, settings):
    own = {
        "minutes_stat": 5,
        "minutes_urgent": 30,
        "minutes_routine": 600,
        "region_weights": frozenset({BodyPart.WRIST}),
    }
    raised = drawn(scores=(0.9,), body_part=BodyPart.WRIST)
    urgent = drawn(scores=(0.9,), body_part=BodyPart.HIP)  # which weighs nothing here
    routine = drawn(scores=(0.1,))
    for study in (raised, urgent, routine):
        put_on_list(stores, settings.model_copy(update=own), study)
    items = [worklist.item(stores, study.study_key, reader="reader") for study in (raised, urgent, routine)]
    assert [item["priority"] for item in items] == ["STAT", "URGENT", "ROUTINE"]
    minutes = [(item["due_at"] - item["arrived_at"]) / timedelta(minutes=1) for item in items]
    assert minutes == [5, 30, 600]
    worklist.rank_worklist(stores, settings)


def test_past_its_due_time_an_item_rises_one_step_and_no_higher_than_the_first(stores, settings):
    routine, stat = drawn(scores=(0.05,)), drawn(scores=(0.05,), ordered=Priority.STAT)
    for study in (routine, stat):
        put_on_list(stores, settings, study)
    keys = [routine.study_key, stat.study_key]
    with transaction(stores.engine) as connection:
        late = "UPDATE fracture.worklist SET due_at = now() - interval '1 minute' WHERE study_key = ANY(:keys)"
        connection.execute(text(late), {"keys": keys})
    listed = {row["study_key"]: row for row in worklist.open_list(stores, limit=1000)["items"]}
    for key, priority in zip(keys, ("URGENT", "STAT"), strict=True):
        item = worklist.item(stores, key, reader="reader")
        assert (item["priority"], item["overdue"]) == (priority, True)
        assert (listed[key]["priority"], listed[key]["overdue"]) == (priority, True)
    reported = act(stores, routine, "report")
    assert (reported["priority"], reported["overdue"]) == ("ROUTINE", False), "nobody waits for it any more"
    assert act(stores, stat, "report")["priority"] == "STAT"


def test_an_item_shows_the_thresholds_of_the_version_that_scored_it_and_calibrated_scores(stores, settings):
    study = drawn(scores=(0.9, 0.4, 0.1, None))
    put_on_list(stores, settings, study)
    item = worklist.item(stores, study.study_key, reader="reader")
    images = item["radiographs"]
    assert [image["score"] for image in images] == [pytest.approx(score) for score in (0.9, 0.4, 0.1)] + [None]
    assert [image["operating_point"] for image in images] == ["urgent", "suspicious", "below", None]
    assert [image["has_overlay"] for image in images] == [True, True, False, False]
    assert images[3]["reason"].startswith("corrupt: ") and item["images_unscored"] == 1
    assert item["operating_points"] == POINTS
    promote_champion(stores, seed=1, points=replace(POINTS, t_specificity=0.8))
    assert worklist.item(stores, study.study_key, reader="reader") == item, "the new champion has not scored it"
    stores.registry.roll_back(actor="reader", reason="for the other tests")


def test_a_final_read_speaks_of_the_images_that_the_reader_was_shown(stores, settings):
    study = drawn(scores=(0.9, 0.1))
    shown, late = put_on_list(stores, settings, study)
    item = worklist.item(stores, study.study_key, reader="reader")
    worklist.report(
        stores,
        study.study_key,
        actor="reader",
        row_version=item["row_version"],
        value="positive",
        comment="displaced",
        radiograph_ids=[shown],
    )
    labels = {one.radiograph_id: one.label for one in stores.radiographs.candidates(as_of=datetime.now(UTC))}
    assert (labels[shown], labels[late]) == (LabelValue.POSITIVE, LabelValue.NEGATIVE)  # the data set's own word
    details = worklist.item(stores, study.study_key, reader="reader")["events"][-1]["details"]
    assert (details["comment"], details["radiograph_ids"]) == ("displaced", [shown])


def test_the_list_is_read_page_by_page(stores, settings):
    for _ in range(3):
        put_on_list(stores, settings, drawn())
    keys = [row["study_key"] for row in worklist.open_list(stores, limit=1000)["items"]]
    pages = [worklist.open_list(stores, limit=2, offset=offset)["items"] for offset in range(0, len(keys), 2)]
    assert [row["study_key"] for page in pages for row in page] == keys


def test_a_ranking_that_read_before_the_scores_came_does_not_take_them_off_the_list(stores, settings, monkeypatch):
    study = drawn(scores=(0.9,))
    champion = stores.registry.find_champion()
    version = champion.version if champion else promote_champion(stores)
    ids = receive(stores, study)
    read, may_go_on = threading.Event(), threading.Event()
    studies_to_rank = stores.worklist.studies_to_rank

    def slowly(*given, **options):
        found = studies_to_rank(*given, **options)
        if not read.is_set():
            read.set()
            assert may_go_on.wait(60)
        return found

    monkeypatch.setattr(stores.worklist, "studies_to_rank", slowly)
    with ThreadPoolExecutor(2) as pool:
        arrivals = pool.submit(worklist.rank_worklist, stores, settings, arrivals_only=True)
        assert read.wait(60)
        predict(stores, version, ids, study.scores)
        after_scoring = pool.submit(worklist.rank_worklist, stores, settings)
        wait([after_scoring], timeout=1)  # it would be through by now, if it did not wait for the other
        may_go_on.set()
        assert arrivals.result(60)["unavailable"] == after_scoring.result(60)["urgent"] == 1
    assert worklist.item(stores, study.study_key, reader="reader")["score"] == pytest.approx(0.9)


def test_a_late_image_ranks_its_study_again(stores, settings):
    study = drawn(scores=(0.1,))
    put_on_list(stores, settings, study)
    with_late_view = Drawn(name=study.name, scores=(0.1, 0.95))
    ids = receive(stores, with_late_view, first=1)
    predict(stores, stores.registry.find_champion().version, ids, (0.95,))
    worklist.rank_worklist(stores, settings)
    item = worklist.item(stores, study.study_key, reader="reader")
    assert (item["priority"], item["images"], item["radiograph_id"]) == ("URGENT", 2, ids[0])


def two_champions(stores, settings, study: Drawn) -> tuple[int, int, list[int]]:
    """A study that shows the score of the second of two champions. Returns: both, and the radiograph ids."""
    ids = put_on_list(stores, settings, study)
    first, second = stores.registry.find_champion().version, promote_champion(stores, seed=1)
    predict(stores, second, ids, (0.5,) * len(ids))
    worklist.rank_worklist(stores, settings)
    return first, second, ids


def shown(stores, study: Drawn) -> tuple[int | None, float | None]:
    item = worklist.item(stores, study.study_key, reader="reader")
    return item["model_version"], item["score"] and round(item["score"], 2)


def test_a_superseded_champion_takes_no_study_back_unless_the_later_one_is_rolled_back(fresh_stores, settings):
    stores, study = fresh_stores, drawn(scores=(0.95,))
    first, second, _ = two_champions(stores, settings, study)
    assert shown(stores, study) == (second, 0.5)
    assert worklist.rank_worklist(stores, settings, version=first) == {"ranked": 0}
    slower = settings.model_copy(update={"minutes_routine": 2000})
    worklist.rank_worklist(stores, slower, version=first)  # other rules place it anew, by the score that it shows
    assert shown(stores, study) == (second, 0.5)
    stores.registry.roll_back(actor="tests", reason="worse")
    worklist.rank_worklist(stores, settings, version=first)
    assert shown(stores, study) == (first, 0.95)
    stores.registry.promote(second, actor="tests", reason="better after all")
    stores.registry.promote(first, actor="tests", reason="and yet")
    worklist.rank_worklist(stores, settings, version=second)
    assert shown(stores, study) == (first, 0.95)


def test_an_image_that_the_later_champion_has_no_outcome_for_is_not_hidden_behind_it(fresh_stores, settings):
    stores, study = fresh_stores, drawn(scores=(0.1,))
    first, second, ids = two_champions(stores, settings, study)
    (late,) = receive(stores, replace(study, scores=(0.1, 0.95)), first=1)
    worklist.rank_worklist(stores, settings, arrivals_only=True)
    worklist.rank_worklist(stores, settings, version=first)
    assert shown(stores, study) == (second, 0.5)  # neither has an outcome for it
    predict(stores, first, [late], (0.95,))
    for version in (first, None):  # also where the champion of now is asked, which has none yet
        worklist.rank_worklist(stores, settings, version=version)
        assert shown(stores, study) == (first, 0.95)
    predict(stores, second, [late], (None,))
    for version in (None, first):
        worklist.rank_worklist(stores, settings, version=version)
        assert shown(stores, study) == (first, 0.95)  # a reason makes it no less urgent
    third = promote_champion(stores)
    predict(stores, third, ids, (0.1,))
    predict(stores, third, [late], (0.1,))
    worklist.rank_worklist(stores, settings)
    assert shown(stores, study) == (third, 0.1)


def test_the_list_is_ordered_by_urgency_and_says_the_same_as_each_item(stores, settings):
    studies = [
        drawn(scores=(0.05,)),
        drawn(scores=(0.5,)),
        drawn(scores=(0.9,)),
        drawn(scores=(None,)),
        drawn(scores=(0.1,), ordered=Priority.STAT),
        drawn(scores=(0.9,), body_part=BodyPart.HIP),
    ]
    for study in studies:
        put_on_list(stores, settings, study)
    keys = [study.study_key for study in studies]
    listed = [row for row in worklist.open_list(stores, limit=1000)["items"] if row["study_key"] in keys]
    words = [(row["priority"], row["ai"]) for row in listed]
    assert words[2:] == [
        ("URGENT", "urgent"),
        ("ROUTINE", "suspicious"),
        ("ROUTINE", "no finding flagged"),
        ("ROUTINE", "AI unavailable"),
    ]
    assert sorted(words[:2]) == [("STAT", "no finding flagged"), ("STAT", "urgent")]
    for row in listed:
        item = worklist.item(stores, row["study_key"], reader="reader")
        assert {name: item[name] for name in row} == {**row, "score": item["score"]}
        assert item["score"] is None or round(item["score"], 3) == pytest.approx(float(row["score"]))


@pytest.mark.parametrize("status", WorklistStatus)
def test_what_is_offered_is_what_is_admitted(stores, settings, status):
    for action in ACTIONS:
        study = drawn()
        put_on_list(stores, settings, study)
        for step in WAYS[status]:
            act(stores, study, step)
        item = worklist.item(stores, study.study_key, reader="reader")
        assert item["status"] == status
        if action in item["actions"]:
            assert act(stores, study, action)["row_version"] == item["row_version"] + 1
        else:
            with pytest.raises(NotAllowed):
                act(stores, study, action)
            assert worklist.item(stores, study.study_key, reader="reader") == item


@pytest.mark.parametrize("status", [WorklistStatus.ACKNOWLEDGED, WorklistStatus.READING])
def test_an_item_that_another_reader_holds_admits_nothing_but_taking_it_over(stores, settings, status):
    study = drawn()
    put_on_list(stores, settings, study)
    for step in WAYS[status]:
        act(stores, study, step, actor="somebody else")
    held = worklist.item(stores, study.study_key, reader="reader")
    assert (held["holder"], held["actions"]) == ("somebody else", ["take_over"])
    for action in ("start_reading", "report", "release"):
        if action in worklist.item(stores, study.study_key, reader="somebody else")["actions"]:
            with pytest.raises(HeldByAnother, match="take it over first"):
                act(stores, study, action)
    assert worklist.item(stores, study.study_key, reader="reader") == held
    taken = act(stores, study, "take_over")
    assert (taken["status"], taken["holder"], taken["actions"]) == ("reading", "reader", ["report", "release"])
    assert taken["events"][-1]["details"] == {"taken_over_from": "somebody else"}
    with pytest.raises(HeldByAnother):
        act(stores, study, "report", actor="somebody else")
    assert act(stores, study, "report")["status"] == "reported"


def test_what_was_reported_or_closed_is_listed_with_its_final_read_the_last_changed_first(stores, settings):
    closed, reported, reopened = (drawn(scores=(0.9,)) for _ in range(3))
    for study in (closed, reported, reopened):
        put_on_list(stores, settings, study)
        act(stores, study, "report")
    act(stores, reopened, "reopen")
    act(stores, closed, "close")
    rows = worklist.finished_list(stores, limit=1000)["items"]
    rows = [row for row in rows if row["study_key"] in {one.study_key for one in (closed, reported, reopened)}]
    assert [(row["study_key"], row["status"]) for row in rows] == [
        (closed.study_key, "closed"),
        (reported.study_key, "reported"),
    ]
    for row in rows:
        assert (row["final_read"], row["reader"], row["ai"], row["priority"]) == (
            "positive",
            "reader",
            "urgent",
            "URGENT",
        )
        item = worklist.item(stores, row["study_key"], reader="reader")
        assert {name: item[name] for name in row if name in item} == {n: v for n, v in row.items() if n in item}


def test_the_slower_of_two_readers_changes_nothing(stores, settings):
    study = drawn()
    put_on_list(stores, settings, study)
    act(stores, study, "start_reading", row_version=1)
    before = worklist.item(stores, study.study_key, reader="reader")
    for action in ("start_reading", "report", "release"):
        with pytest.raises(Conflict):
            act(stores, study, action, row_version=1)
    assert worklist.item(stores, study.study_key, reader="reader") == before


def test_a_final_read_is_kept_with_what_was_seen_and_becomes_the_label(stores, settings):
    study = drawn(scores=(0.9,))
    (radiograph_id,) = put_on_list(stores, settings, study)
    item = act(stores, study, "report")
    details = item["events"][-1]["details"]
    assert (details["value"], details["version"]) == ("positive", item["model_version"])
    assert details["score"] == pytest.approx(0.9)
    (candidate,) = [
        one for one in stores.radiographs.candidates(as_of=datetime.now(UTC)) if one.radiograph_id == radiograph_id
    ]
    assert candidate.label == LabelValue.POSITIVE  # the data set said negative


def test_an_acknowledgement_keeps_acrs_six_fields(stores, settings):
    study = drawn()
    put_on_list(stores, settings, study)
    item = act(stores, study, "acknowledge")
    assert item["holder"] == "reader"
    assert item["events"][-1]["details"] == {
        **ACKNOWLEDGEMENT,
        "found_at": FOUND_AT.isoformat(),
        "told_at": TOLD_AT.isoformat(),
    }


def test_an_unknown_study_is_an_error(stores):
    with pytest.raises(UnknownItem):
        worklist.item(stores, "nobody knows this", reader="reader")


def test_the_picture_is_the_radiograph_at_most_1600_px_long(stores, settings):
    pixels = draw_bone(3, size=(500, 2000))
    study = drawn(scores=(0.9,), pictures=(png_of(pixels),))
    (radiograph_id,) = put_on_list(stores, settings, study)
    with Image.open(io.BytesIO(worklist.image_png(stores, settings, radiograph_id))) as picture:
        assert (picture.mode, picture.size) == ("L", (400, 1600))
    small = drawn(scores=(0.9,), pictures=(png_of(draw_bone(4)),))
    (radiograph_id,) = put_on_list(stores, settings, small)
    with Image.open(io.BytesIO(worklist.image_png(stores, settings, radiograph_id))) as picture:
        assert np.array_equal(np.asarray(picture), draw_bone(4))


def test_the_highlighted_picture_is_that_of_the_radiograph_with_its_caption(stores, settings):
    study = drawn(scores=(0.9, 0.95, 0.1))
    *flagged, below = put_on_list(stores, settings, study)
    version = stores.registry.find_champion().version
    for radiograph_id in flagged:
        with Image.open(io.BytesIO(worklist.highlighted_png(stores, version, radiograph_id))) as picture:
            assert picture.width == 240 and picture.height > 320  # the caption's strip below it
    with pytest.raises(ObjectNotFound):
        worklist.highlighted_png(stores, version, below)


def test_the_overlay_is_transparent_where_there_is_no_attention(stores, settings):
    study = drawn(scores=(0.9, 0.1))
    flagged, below = put_on_list(stores, settings, study)
    version = stores.registry.find_champion().version
    with Image.open(io.BytesIO(worklist.overlay_png(stores, version, flagged))) as layer:
        opacity = np.asarray(layer)[:, :, 3]
    assert opacity[0, 0] == 0
    assert 140 < opacity.max() < 160
    with pytest.raises(ObjectNotFound):
        worklist.overlay_png(stores, version, below)
