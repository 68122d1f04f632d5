"""The worklist as the ranking makes it: which studies, in which order, by whose scores."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from fracture_ml.core.errors import UnknownItem
from fracture_ml.core.records import AiPriority, BodyPart, OperatingPoint, Priority
from fracture_ml.scoring.priority import RankingRules, rank_study
from fracture_ml.stores.database import transaction
from tests.stores.stored_rows import (
    act,
    arrival,
    claim,
    events,
    freeze,
    list_studies,
    ranked,
    receive,
    received,
    register,
    rejected,
    scored,
)


def test_a_study_is_the_sum_of_its_images(stores, version):
    stores.worklist.save_items([ranked(study) for study in stores.worklist.studies_to_rank(None)])
    ids = receive(
        stores,
        arrival("a", study_key="s", ordered_priority=Priority.ROUTINE, body_part=BodyPart.HAND),
        arrival("b", study_key="s", ordered_priority=Priority.STAT),
        arrival("c", study_key="s", body_part=BodyPart.WRIST),
    )
    stores.predictions.save(version, [scored(ids[0], 0.25), rejected(ids[2])])
    study = next(one for one in stores.worklist.studies_to_rank(version) if one.study_key == "s")
    assert (study.ordered_priority, study.body_part, study.images) == (Priority.STAT, BodyPart.MIXED, 3)
    assert study.body_parts == (BodyPart.HAND, BodyPart.WRIST)
    assert study.scores == ((ids[0], 0.25, OperatingPoint.SUSPICIOUS),) and study.unscored == 2
    assert study.first_radiograph_id == ids[0]


def test_listing_twice_changes_nothing_and_what_is_listed_is_not_to_be_ranked(stores):
    receive(stores, arrival("a", study_key="s"))
    studies = stores.worklist.studies_to_rank(None)
    assert stores.worklist.save_items([ranked(study) for study in studies]) == 1
    assert stores.worklist.save_items([ranked(study) for study in studies]) == 0
    assert stores.worklist.save_items([]) == 0
    assert stores.worklist.studies_to_rank(None) == []
    item = stores.worklist.item_of("s")
    assert (item["ai_priority"], item["row_version"], item["status"]) == ("unavailable", 1, "new")
    assert events(stores, "s") == ["listed"]


def test_another_champion_ranks_open_studies_anew_and_leaves_what_was_read(stores, version):
    read, open_ = receive(stores, arrival("a", study_key="read"), arrival("b", study_key="open"))
    list_studies(stores)
    act(stores, "read", "report", value="negative")
    stores.predictions.save(version, [scored(read, 0.9), scored(open_, 0.9)])
    stale = [ranked(study) for study in stores.worklist.studies_to_rank(version)]
    assert "read" not in {study.study_key for study in stale}
    act(stores, "open", "acknowledge")
    list_studies(stores, version)
    item = stores.worklist.item_of("open")
    assert (item["score"], item["version"], item["status"], item["holder"]) == (
        pytest.approx(0.9),
        version,
        "acknowledged",
        "dr a",
    )
    assert events(stores, "open") == ["listed", "acknowledged", "re-ranked"]
    assert item["images"][0]["prediction"]["calibrated"] == pytest.approx(0.9)
    assert stores.worklist.studies_to_rank(version) == []
    late = next(one for one in stale if one.study_key == "open")
    assert stores.worklist.save_items([replace(late, study_key="read", radiograph_id=read)]) == 0
    assert stores.worklist.item_of("read")["version"] is None


def test_studies_that_a_new_champion_has_not_come_to_are_passed_over(stores, version):
    early, late = receive(stores, arrival("a", study_key="early"), arrival("b", study_key="late"))
    stores.predictions.save(version, [scored(early, 0.9), scored(late, 0.9)])
    list_studies(stores, version)
    new = register(stores, freeze(stores)).version
    assert not {"early", "late"} & set(stores.worklist.outdated(new))
    stores.predictions.save(new, [scored(late, 0.1)])
    assert {"early", "late"} & set(stores.worklist.outdated(new)) == {"late"}
    list_studies(stores, new)
    assert [stores.worklist.item_of(key)["version"] for key in ("early", "late")] == [version, new]


def test_a_late_image_ranks_its_study_anew_and_reopens_one_that_was_reported(stores):
    receive(stores, arrival("a", study_key="s"), arrival("b", study_key="t"))
    list_studies(stores)
    act(stores, "s", "report", value="negative")
    receive(stores, arrival("c", study_key="s"), arrival("d", study_key="t"))
    late = [ranked(study) for study in stores.worklist.studies_to_rank(None)]
    assert stores.worklist.save_items(late) == 2
    assert stores.worklist.save_items(late) == 0
    item = stores.worklist.item_of("s")
    assert (item["status"], item["holder"], len(item["images"])) == ("reopened", None, 2)
    assert events(stores, "s") == ["listed", "reported", "reopened", "re-ranked"]
    assert events(stores, "t") == ["listed", "re-ranked"]


def test_what_people_closed_stays_closed_until_a_further_image_comes(stores, version):
    (first,) = receive(stores, arrival("a", study_key="s"))
    stale = stores.worklist.studies_to_rank(version)
    list_studies(stores)
    act(stores, "s", "report", value="negative")
    closed = act(stores, "s", "close")
    stores.predictions.save(version, [scored(first, 0.9)])
    assert "s" not in {study.study_key for study in stores.worklist.studies_to_rank(version)}
    stores.worklist.save_items([ranked(study, score=0.9, ai_priority=AiPriority.URGENT) for study in stale])
    assert stores.worklist.item_of("s") == {**closed, "images": stores.worklist.item_of("s")["images"]}
    receive(stores, arrival("b", study_key="s"))
    list_studies(stores, version)
    item = stores.worklist.item_of("s")
    assert (item["status"], item["holder"], len(item["images"])) == ("reopened", None, 2)
    assert events(stores, "s") == ["listed", "reported", "closed", "reopened", "re-ranked"]


def test_a_late_image_of_a_study_that_nobody_has_read_does_not_start_its_clock_anew(stores):
    receive(stores, arrival("a", study_key="s"))
    with transaction(stores.engine) as connection:
        connection.execute(text("UPDATE fracture.radiograph SET received_at = received_at - interval '3 hours'"))
    list_studies(stores)
    before = act(stores, "s", "acknowledge")
    receive(stores, arrival("b", study_key="s"))
    list_studies(stores)
    item = stores.worklist.item_of("s")
    assert len(item["images"]) == 2
    assert (item["arrived_at"], item["due_at"]) == (before["arrived_at"], before["due_at"])


def test_an_image_is_shown_with_the_outcome_of_the_version_that_its_study_shows(stores, version):
    (id_,) = receive(stores, arrival("a", study_key="s"))
    stores.predictions.save(version, [scored(id_, 0.25)])
    list_studies(stores, version)
    later = register(stores, stores.registry.version_of(version).snapshot_id).version
    stores.predictions.save(later, [scored(id_, 0.75)])
    for shown, score in ((version, 0.25), (later, 0.75)):
        (image,) = stores.worklist.item_of("s")["images"]
        assert (image["prediction"]["version"], image["prediction"]["calibrated"]) == (shown, score)
        list_studies(stores, later)


@pytest.mark.parametrize(
    "change",
    [
        {"ordered_priority": Priority.STAT},
        {"score": 0.75},
        {"ai_priority": AiPriority.URGENT},
        {"body_parts": (BodyPart.HAND, BodyPart.WRIST)},
        {"images_unscored": 1},
        {"raised": True},
        {"prioritised": False},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_alone_moves_a_study_reaches_its_row(stores, version, change):
    (id_,) = receive(stores, arrival("a", study_key="s", body_part=BodyPart.HAND))
    stores.predictions.save(version, [scored(id_, 0.5)])
    (study,) = [one for one in stores.worklist.studies_to_rank(version) if one.study_key == "s"]
    assert stores.worklist.save_items([ranked(study)]) == 1
    assert stores.worklist.save_items([ranked(study, **change)]) == 1
    ((name, value),) = change.items()
    assert stores.worklist.item_of("s")[name] == (list(value) if isinstance(value, tuple) else value)


def test_a_new_champion_moves_a_study_only_when_it_has_an_outcome_for_each_image(stores, version):
    first, second = receive(stores, arrival("a", study_key="s"), arrival("b", study_key="s"))
    stores.predictions.save(version, [scored(first, 0.9), scored(second, 0.2)])
    list_studies(stores, version)
    later = register(stores, stores.registry.version_of(version).snapshot_id).version
    for done in ([], [scored(first, 0.1)]):  # its run failed at once, or half-way
        stores.predictions.save(later, done)
        list_studies(stores, later)
        item = stores.worklist.item_of("s")
        assert (item["version"], item["score"]) == (version, pytest.approx(0.9))
    stores.predictions.save(later, [rejected(second)])
    list_studies(stores, later)
    item = stores.worklist.item_of("s")
    assert (item["version"], item["score"], item["images_unscored"]) == (later, pytest.approx(0.1), 1)


def test_a_late_image_counts_at_once_while_a_new_champion_has_not_scored_its_study(stores, version):
    (first,) = receive(stores, arrival("a", study_key="s", ordered_priority=Priority.ROUTINE))
    stores.predictions.save(version, [scored(first, 0.9)])
    list_studies(stores, version)
    later = register(stores, stores.registry.version_of(version).snapshot_id).version
    receive(stores, arrival("b", study_key="s", ordered_priority=Priority.STAT))
    list_studies(stores, later)
    item = stores.worklist.item_of("s")
    assert (item["ordered_priority"], item["images_unscored"], len(item["images"])) == ("STAT", 1, 2)
    assert (item["version"], item["score"]) == (version, pytest.approx(0.9))
    assert "s" not in {study.study_key for study in stores.worklist.studies_to_rank(later)}


def test_a_study_whose_images_a_label_moved_to_another_meanwhile_is_not_listed(stores):
    receive(stores, arrival("a", study_key=None))
    studies = [ranked(study) for study in stores.worklist.studies_to_rank(None)]
    stores.radiographs.record_labels(received("labels.csv"), [claim("a", study_key="told")])
    assert stores.worklist.save_items(studies) == 0
    list_studies(stores)
    assert [row["study_key"] for row in stores.worklist.open_items()] == ["told"]


def test_the_open_list_is_in_the_order_of_urgency(stores, version):
    now = datetime.now(UTC)
    wanted = [
        ("late", "STAT", dict(ordered_priority=Priority.STAT, due_at=now - timedelta(minutes=1))),
        ("stat", "STAT", dict(ordered_priority=Priority.STAT, due_at=now + timedelta(minutes=15))),
        ("raised", "STAT", dict(ai_priority=AiPriority.URGENT, raised=True, due_at=now + timedelta(minutes=20))),
        ("ordered", "URGENT", dict(ordered_priority=Priority.URGENT, due_at=now + timedelta(minutes=50))),
        ("ai", "URGENT", dict(ai_priority=AiPriority.URGENT, due_at=now + timedelta(minutes=60))),
        ("overdue", "URGENT", dict(ai_priority=AiPriority.BELOW, due_at=now - timedelta(minutes=1))),
        ("suspicious", "ROUTINE", dict(ai_priority=AiPriority.SUSPICIOUS, due_at=now + timedelta(hours=24))),
        ("below", "ROUTINE", dict(ai_priority=AiPriority.BELOW, due_at=now + timedelta(hours=20))),
        ("off", "ROUTINE", dict(ai_priority=AiPriority.URGENT, prioritised=False, due_at=now + timedelta(hours=21))),
        (
            "quiet",
            "ROUTINE",
            dict(ai_priority=AiPriority.SUSPICIOUS, prioritised=False, due_at=now + timedelta(hours=21, minutes=30)),
        ),
        ("none", "ROUTINE", dict(ai_priority=AiPriority.UNAVAILABLE, due_at=now + timedelta(hours=22))),
    ]
    wanted[-1][2]["arrived_at"] = now - timedelta(hours=3)  # first, and due last
    receive(stores, *(arrival(name, study_key=name) for name, _, _ in reversed(wanted)))
    studies = {study.study_key: study for study in stores.worklist.studies_to_rank(None)}
    items = []
    for name, _, row in wanted:
        score = None if row.get("ai_priority", "unavailable") == AiPriority.UNAVAILABLE else 0.5
        items.append(ranked(studies[name], score=score, **row))
    stores.worklist.save_items(items)
    rows = stores.worklist.open_items()
    order = ["late", "stat", "raised", "overdue", "ordered", "ai", "suspicious", "below", "off", "quiet", "none"]
    assert [row["study_key"] for row in rows] == order
    assert {row["study_key"]: row["priority"] for row in rows} == {name: priority for name, priority, _ in wanted}
    assert rows[-1]["ai"] == "AI unavailable" and rows[-1]["score"] is None
    assert [row["study_key"] for row in stores.worklist.open_items(limit=2, offset=1)] == order[1:3]
    counts = stores.worklist.counts()
    assert (counts["open"], counts["overdue"], counts["by_priority"]["STAT"]) == (11, 2, 3)
    assert counts["by_ai"]["no finding flagged"] == 2 and counts["by_status"] == {"new": 11}


def test_other_rules_place_open_studies_anew_once_and_leave_what_was_read(stores):
    receive(stores, arrival("a", study_key="read"), arrival("b", study_key="moved"), arrival("c", study_key="stays"))
    studies = stores.worklist.studies_to_rank(None, ranked_by="one")
    stores.worklist.save_items([ranked(study, ranked_by="one") for study in studies])
    act(stores, "read", "report", value="negative")
    assert stores.worklist.studies_to_rank(None, ranked_by="one") == []
    assert stores.worklist.studies_to_rank(None, ranked_by="two", arrivals_only=True) == []
    again = stores.worklist.studies_to_rank(None, ranked_by="two")
    assert [study.study_key for study in again] == ["moved", "stays"]
    placed = [ranked(study, ranked_by="two") for study in again]
    assert stores.worklist.save_items([placed[1]]) == 0
    assert [study.study_key for study in stores.worklist.studies_to_rank(None, ranked_by="two")] == ["moved"]
    sooner = replace(placed[0], due_at=placed[0].due_at - timedelta(minutes=30))
    assert stores.worklist.save_items([sooner, placed[1]]) == 1
    assert events(stores, "moved") == ["listed", "re-ranked"] and events(stores, "stays") == ["listed"]
    assert stores.worklist.item_of("stays")["row_version"] == 1
    assert stores.worklist.studies_to_rank(None, ranked_by="two") == []


def test_a_body_part_that_a_label_tells_later_ranks_open_studies_anew(stores):
    receive(
        stores,
        arrival("a", study_key="told"),
        arrival("b", study_key="second", body_part=BodyPart.HAND),
        arrival("c", study_key="second"),
        arrival("d", study_key="same", body_part=BodyPart.HIP),
        arrival("e", study_key="same"),
        arrival("f", study_key="read"),
    )
    list_studies(stores)
    act(stores, "read", "report", value="negative")
    told = {"a": BodyPart.HIP, "c": BodyPart.WRIST, "e": BodyPart.HIP, "f": BodyPart.HIP}
    stores.radiographs.record_labels(received("labels.csv"), [claim(key, body_part=part) for key, part in told.items()])
    assert stores.worklist.studies_to_rank(None, arrivals_only=True) == []
    again = {study.study_key: study.body_part for study in stores.worklist.studies_to_rank(None)}
    assert again == {"told": BodyPart.HIP, "second": BodyPart.MIXED}
    list_studies(stores)
    assert stores.worklist.item_of("told")["body_part"] == "hip"
    assert stores.worklist.studies_to_rank(None) == []


def test_arrivals_are_listed_at_once_and_change_no_score(stores, version):
    first, other = receive(stores, arrival("a", study_key="s"), arrival("b", study_key="t"))
    stores.predictions.save(version, [scored(first, 0.9)])
    list_studies(stores, version)
    late, _ = receive(stores, arrival("c", study_key="s"), arrival("d", study_key="new"))
    stores.predictions.save(version, [scored(other, 0.9)])
    studies = stores.worklist.studies_to_rank(version, arrivals_only=True)
    assert [study.study_key for study in studies] == ["s", "new"]
    stores.worklist.save_items([ranked(study, version=version) for study in studies])
    item = stores.worklist.item_of("s")
    assert (item["score"], len(item["images"]), item["images_unscored"]) == (pytest.approx(0.9), 2, 1)
    assert stores.worklist.item_of("new")["ai_priority"] == "unavailable"
    stores.predictions.save(version, [scored(late, 0.2)])
    assert [study.study_key for study in stores.worklist.studies_to_rank(version)] == ["s", "t"]


# --- what was read elsewhere ----------------------------------------------------------------------


def labelled(key: str, value: str = "negative", **facts):
    """An arrival that a data set's label came with."""
    return arrival(key, claims=[claim(key, value)], **facts)


def keys_to_rank(stores, *, list_labelled: bool = False) -> dict[str, bool]:
    """study_key -> labelled, of what is to be ranked."""
    studies = stores.worklist.studies_to_rank(None, list_labelled=list_labelled)
    return {study.study_key: study.labelled for study in studies}


def test_a_study_is_labelled_where_each_of_its_images_came_with_a_certain_label(stores):
    receive(
        stores,
        labelled("a", study_key="old"),
        labelled("b", "positive", study_key="old"),
        labelled("c", study_key="half"),
        arrival("d", study_key="half"),
        labelled("e", "uncertain", study_key="doubtful"),
        arrival("f", study_key="contradicted", claims=[claim("f"), claim("f", "negative")]),
        labelled("g", "absent", study_key="absent"),
        arrival("h", study_key="fresh"),
    )
    expected = {"old": True, "half": False, "doubtful": False, "contradicted": False, "absent": False, "fresh": False}
    assert keys_to_rank(stores) == expected
    assert keys_to_rank(stores, list_labelled=True) == dict.fromkeys(expected, False)


def test_what_was_kept_off_the_list_is_not_looked_at_again_before_a_further_image_comes(stores):
    receive(stores, labelled("a", study_key="old"), labelled("b", study_key="grown"))
    kept = stores.worklist.studies_to_rank(None, list_labelled=False)
    for _ in range(2):
        stores.worklist.keep_off(kept)
        assert keys_to_rank(stores) == {}
    assert stores.monitoring.stuck(before=datetime.now(UTC) + timedelta(days=1))["unlisted"] == 0
    receive(stores, arrival("c", study_key="grown"))
    assert keys_to_rank(stores) == {"grown": False}
    assert keys_to_rank(stores, list_labelled=True) == {"old": False, "grown": False}


def test_what_is_listed_already_is_ranked_whether_or_not_it_is_labelled(stores, version):
    ids = receive(stores, labelled("a", study_key="s"))
    list_studies(stores)
    stores.predictions.save(version, [scored(ids[0], 0.9)])
    studies = stores.worklist.studies_to_rank(version, list_labelled=False)
    assert [(study.study_key, study.labelled) for study in studies if study.study_key == "s"] == [("s", False)]


def test_a_score_that_comes_later_by_the_same_version_ranks_its_study_anew(stores, version):
    ids = receive(stores, arrival("a", study_key="s"), arrival("b", study_key="s"))
    stores.predictions.save(version, [scored(ids[0], 0.25)])
    list_studies(stores, version)
    assert stores.worklist.studies_to_rank(version) == []
    stores.predictions.save(version, [scored(ids[1], 0.9)])
    (study,) = stores.worklist.studies_to_rank(version)
    assert (study.study_key, study.unscored, len(study.scores)) == ("s", 0, 2)


def test_what_a_label_moves_while_studies_are_ranked_leaves_no_study_with_anothers_score(stores, version):
    a, b, c = receive(stores, *(arrival(name, study_key=study) for name, study in (("a", "s"), ("b", "s"), ("c", "t"))))
    stores.predictions.save(version, [scored(a, 0.2), scored(b, 0.95), scored(c, 0.1)])
    found = stores.worklist.studies_to_rank(version)
    with transaction(stores.engine) as connection:  # as a corrected label file does
        connection.execute(text("UPDATE fracture.radiograph SET study_key = 't' WHERE radiograph_id = :b"), {"b": b})
    rules = RankingRules()
    stores.worklist.save_items([rank_study(study, rules=rules) for study in found])
    with pytest.raises(UnknownItem):
        stores.worklist.item_of("s")
    stores.worklist.save_items([rank_study(study, rules=rules) for study in stores.worklist.studies_to_rank(version)])
    shown = {key: stores.worklist.item_of(key) for key in ("s", "t")}
    assert {key: (row["radiograph_id"], len(row["images"])) for key, row in shown.items()} == {
        "s": (a, 1),
        "t": (b, 2),
    }
    # Once more, of studies that are listed.
    with transaction(stores.engine) as connection:
        connection.execute(text("UPDATE fracture.radiograph SET study_key = 's' WHERE radiograph_id = :b"), {"b": b})
    stores.worklist.save_items([rank_study(study, rules=rules) for study in stores.worklist.studies_to_rank(version)])
    assert {key: stores.worklist.item_of(key)["radiograph_id"] for key in ("s", "t")} == {"s": b, "t": c}


def test_a_study_that_lost_an_image_meanwhile_is_left_to_the_next_ranking(stores, version):
    decides, other = receive(stores, arrival("a", study_key="s"), arrival("b", study_key="s"))
    stores.predictions.save(version, [scored(decides, 0.9), scored(other, 0.2)])
    found = [study for study in stores.worklist.studies_to_rank(version) if study.study_key == "s"]
    with transaction(stores.engine) as connection:  # as a corrected label file does
        moved = "UPDATE fracture.radiograph SET study_key = 't' WHERE radiograph_id = :other"
        connection.execute(text(moved), {"other": other})
    assert stores.worklist.save_items([ranked(study) for study in found]) == 0
    list_studies(stores, version)
    shown = {row["study_key"]: (row["images"], float(row["score"] or 0)) for row in stores.worklist.open_items()}
    assert (shown["s"], shown["t"]) == ((1, 0.9), (1, 0.2))


def test_a_corrected_body_part_reaches_the_list(stores):
    receive(stores, arrival("a", study_key="s", body_part=BodyPart.HIP))
    list_studies(stores)
    with transaction(stores.engine) as connection:
        connection.execute(text("UPDATE fracture.radiograph SET body_part = 'hand'"))
    list_studies(stores)
    assert stores.worklist.item_of("s")["body_parts"] == ["hand"]


def test_people_wait_since_the_object_came_into_the_bucket_unless_it_is_an_archive(stores):
    now = datetime.now(UTC)
    came = {
        "outage": now - timedelta(hours=10),
        "archive": now - timedelta(days=400),
        "clock": now + timedelta(hours=1),
    }
    for name, moment in came.items():
        one = arrival(name, study_key=name, ordered_priority=Priority.STAT)
        receive(stores, replace(one, received=replace(one.received, modified_at=moment)))
    receive(stores, arrival("not said", study_key="not said"))
    arrived = {study.study_key: study.arrived_at for study in stores.worklist.studies_to_rank(None)}
    assert arrived["outage"] == came["outage"]  # a STAT study of then is overdue as it is listed
    for name in ("archive", "clock", "not said"):
        assert abs(arrived[name] - now) < timedelta(minutes=5)
