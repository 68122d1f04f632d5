"""The worklist: ranked by the AI, changed by people, one of them at a time."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from stored_rows import (
    act,
    arrival,
    claim,
    list_studies,
    ranked,
    receive,
    received,
    register,
    rejected,
    scored,
)

from fracture_ml.core.errors import Conflict, HeldByAnother, NotAllowed, UnknownItem
from fracture_ml.core.records import AiPriority, BodyPart, OperatingPoint, Priority, Verdict
from fracture_ml.scoring.priority import RankingRules, rank_study
from fracture_ml.stores import worklist
from fracture_ml.stores.database import transaction


def events(stores, study_key: str) -> list[str]:
    return [event["event"] for event in stores.worklist.item_of(study_key)["events"]]


# --- ranking --------------------------------------------------------------------------------------


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
    assert study.first_radiograph_id == ids[0] and study.status is None and study.row_version is None


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
    assert item["images"][0]["prediction"]["probability"] == pytest.approx(0.9)
    assert stores.worklist.studies_to_rank(version) == []
    late = next(one for one in stale if one.study_key == "open")
    assert stores.worklist.save_items([replace(late, study_key="read", radiograph_id=read)]) == 0
    assert stores.worklist.item_of("read")["version"] is None


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
        ("stat", "STAT", dict(ordered_priority=Priority.STAT, due_at=now + timedelta(minutes=15))),
        ("raised", "STAT", dict(ai_priority=AiPriority.URGENT, raised=True, due_at=now + timedelta(minutes=20))),
        ("ordered", "URGENT", dict(ordered_priority=Priority.URGENT, due_at=now + timedelta(minutes=50))),
        ("ai", "URGENT", dict(ai_priority=AiPriority.URGENT, due_at=now + timedelta(minutes=60))),
        ("overdue", "URGENT", dict(ai_priority=AiPriority.BELOW, due_at=now - timedelta(minutes=1))),
        ("suspicious", "ROUTINE", dict(ai_priority=AiPriority.SUSPICIOUS, due_at=now + timedelta(hours=24))),
        ("below", "ROUTINE", dict(ai_priority=AiPriority.BELOW, due_at=now + timedelta(hours=20))),
        ("off", "ROUTINE", dict(ai_priority=AiPriority.URGENT, prioritised=False, due_at=now + timedelta(hours=21))),
        ("none", "ROUTINE", dict(ai_priority=AiPriority.UNAVAILABLE, due_at=now + timedelta(hours=22))),
    ]
    receive(stores, *(arrival(name, study_key=name) for name, _, _ in reversed(wanted)))
    studies = {study.study_key: study for study in stores.worklist.studies_to_rank(None)}
    items = []
    for name, _, row in wanted:
        score = None if row.get("ai_priority", "unavailable") == AiPriority.UNAVAILABLE else 0.5
        items.append(ranked(studies[name], score=score, **row))
    stores.worklist.save_items(items)
    rows = stores.worklist.open_items()
    order = ["stat", "raised", "overdue", "ordered", "ai", "suspicious", "below", "off", "none"]
    assert [row["study_key"] for row in rows] == order
    assert {row["study_key"]: row["priority"] for row in rows} == {name: priority for name, priority, _ in wanted}
    assert rows[-1]["ai"] == "AI unavailable" and rows[-1]["score"] is None
    assert [row["study_key"] for row in stores.worklist.open_items(limit=2, offset=1)] == order[1:3]
    counts = stores.worklist.counts()
    assert (counts["open"], counts["overdue"], counts["by_priority"]["STAT"]) == (9, 1, 2)
    assert counts["by_ai"]["no finding flagged"] == 2 and counts["by_status"] == {"new": 9}


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


# --- people ---------------------------------------------------------------------------------------


def test_an_item_is_acknowledged_read_reported_closed_and_reopened(stores, version):
    (id_,) = receive(stores, arrival("a", study_key="s", body_part=BodyPart.HAND))
    stores.predictions.save(version, [scored(id_, 0.5)])
    list_studies(stores, version)
    told = {"finding": "fracture", "told_to": "dr b"}
    assert act(stores, "s", "acknowledge", **told)["holder"] == "dr a"
    assert act(stores, "s", "take_over", actor="dr b")["status"] == "reading"
    item = act(stores, "s", "report", actor="dr b", value="positive", note="distal radius")
    assert (item["status"], item["holder"]) == ("reported", None)
    assert "s" not in {row["study_key"] for row in stores.worklist.open_items()}
    assert act(stores, "s", "close")["status"] == "closed"
    assert act(stores, "s", "reopen")["status"] == "reopened"
    assert events(stores, "s") == ["listed", "acknowledged", "reading", "reported", "closed", "reopened"]
    history = stores.worklist.item_of("s")["events"]
    assert history[1]["details"] == told and history[1]["actor"] == "dr a"
    read = history[3]["details"]
    assert (read["value"], read["score"], read["version"], read["ai_priority"]) == (
        "positive",
        0.5,
        version,
        "suspicious",
    )
    labels = {one.radiograph_id: one.label for one in stores.radiographs.candidates(as_of=datetime.now(UTC))}
    assert labels[id_] == "positive"


def test_of_two_readers_who_acknowledge_one_item_at_once_one_is_told_of_the_other(stores):
    receive(stores, arrival("a", study_key="s"))
    list_studies(stores)
    together = threading.Barrier(2)

    def acknowledge(reader: str) -> str:
        with transaction(stores.engine):  # each has a connection, or one would come after the other
            together.wait()
        together.wait()
        try:
            return stores.worklist.act("s", "acknowledge", actor=reader, row_version=1)["holder"]
        except Conflict:
            return "conflict"

    with ThreadPoolExecutor(2) as pool:
        outcomes = sorted(pool.map(acknowledge, ("dr a", "dr b")))
    assert outcomes[0] == "conflict" and outcomes[1] == stores.worklist.item_of("s")["holder"]
    assert events(stores, "s") == ["listed", "acknowledged"]


def test_an_action_sent_twice_is_a_conflict_and_changes_nothing_the_second_time(stores):
    receive(stores, arrival("a", study_key="s"))
    list_studies(stores)
    stores.worklist.act("s", "report", actor="dr a", row_version=1, details={"value": "positive"})
    with pytest.raises(Conflict):
        stores.worklist.act("s", "report", actor="dr a", row_version=1, details={"value": "positive"})
    assert events(stores, "s") == ["listed", "reported"]
    assert stores.radiographs.counts()["labelled"] == {"positive": 1}


@pytest.mark.parametrize("action", ["close", "reopen", "release", "take_over", "no such action"])
def test_an_action_that_the_status_does_not_admit_is_refused(stores, action):
    receive(stores, arrival("a", study_key="s"))
    list_studies(stores)
    with pytest.raises(NotAllowed):
        act(stores, "s", action)
    assert events(stores, "s") == ["listed"]


def test_only_the_holder_releases_an_item_and_then_it_is_new_again(stores):
    receive(stores, arrival("a", study_key="s"))
    list_studies(stores)
    act(stores, "s", "acknowledge")
    with pytest.raises(HeldByAnother, match="Somebody else holds"):
        act(stores, "s", "release", actor="dr b")
    assert (act(stores, "s", "release")["status"], events(stores, "s")[-1]) == ("new", "released")


def test_an_item_that_somebody_holds_is_reported_by_nobody_else_before_they_took_it_over(stores):
    receive(stores, arrival("a", study_key="s"))
    list_studies(stores)
    act(stores, "s", "start_reading")
    for action in ("report", "start_reading", "release"):
        with pytest.raises((HeldByAnother, NotAllowed)):
            act(stores, "s", action, actor="dr b", **({"value": "positive"} if action == "report" else {}))
    assert stores.radiographs.counts()["labelled"] == {} and events(stores, "s") == ["listed", "reading"]
    with pytest.raises(NotAllowed, match="You hold this item already"):
        act(stores, "s", "take_over")
    act(stores, "s", "take_over", actor="dr b")
    act(stores, "s", "report", actor="dr b", value="positive")
    (row,) = stores.worklist.finished_items()
    assert (row["status"], row["holder"], row["final_read"], row["reader"]) == ("reported", None, "positive", "dr b")
    assert stores.worklist.finished_items(offset=1) == []


def test_a_final_read_without_a_finding_and_a_study_that_is_not_listed_are_refused(stores):
    receive(stores, arrival("a", study_key="s"))
    list_studies(stores)
    for value in ("absent", "maybe", None):
        with pytest.raises(NotAllowed, match="positive, negative or uncertain"):
            act(stores, "s", "report", value=value)
    with pytest.raises(UnknownItem):
        stores.worklist.item_of("nobody")
    with pytest.raises(UnknownItem):
        stores.worklist.act("nobody", "close", actor="dr a", row_version=1)


# --- the daily watch ------------------------------------------------------------------------------


def test_the_watch_sees_live_scores_final_reads_and_what_was_missed(stores, version):
    ids = receive(stores, arrival("a", study_key="s"), arrival("b", study_key="t"))
    below = replace(scored(ids[0], 0.1), operating_point=OperatingPoint.BELOW)
    stores.predictions.save(version, [below, scored(ids[1], 0.5)])
    list_studies(stores, version)
    now, tomorrow = datetime.now(UTC), datetime.now(UTC) + timedelta(days=1)
    watch = stores.monitoring
    assert watch.training_scores(version) == [0.25] and watch.live_scores(version, now) == [0.1, 0.5]
    # A live day is the 24 hours before the report, whatever the date.
    assert watch.live_scores(version, now + timedelta(hours=23)) == [0.1, 0.5]
    assert watch.live_scores(version, now + timedelta(hours=25)) == []
    assert watch.live_scores(version, now - timedelta(days=1)) == []
    assert watch.training_facts(version)["width_px"] == [400] and len(watch.live_facts(now)["view"]) == 4
    act(stores, "s", "report", value="uncertain")
    act(stores, "s", "reopen")
    act(stores, "s", "report", value="positive")
    act(stores, "t", "report", value="negative")
    assert watch.final_reads(now - timedelta(days=1), tomorrow) == [
        {"version": version, "shown": "below", "finding": "positive"},
        {"version": version, "shown": "suspicious", "finding": "negative"},
    ]
    assert watch.evaluated_studies(version) == [(0.25, True)]
    assert watch.final_reads(tomorrow, tomorrow) == watch.final_reads(now - timedelta(days=2), now) == []
    assert len(watch.minutes_to_read(tomorrow - timedelta(hours=1))["ROUTINE"]) == 2
    assert watch.minutes_to_read(tomorrow + timedelta(hours=1)) == {}
    from fracture_ml.stores.database import rows_of, transaction

    with transaction(stores.engine) as connection:
        missed = rows_of(connection, "missed_fractures")
        history = rows_of(connection, "model_history")
    assert [(row["study_key"], row["score"], row["reader"]) for row in missed] == [("s", 0.1, "dr a")]
    assert [(row["event"], row["auroc"]) for row in history] == [("registered", "0.9")]
    assert watch.overdue() == 0
    assert watch.stuck(before=tomorrow) == {"held": 0, "unlisted": 0, "unjudged": 1}
    act(stores, "s", "reopen")
    act(stores, "s", "start_reading")
    receive(stores, arrival("c", study_key="u"))
    assert watch.stuck(before=tomorrow) == {"held": 1, "unlisted": 1, "unjudged": 1}
    taken_at = stores.worklist.item_of("s")["events"][-1]["happened_at"]
    receive(stores, arrival("d", study_key="s"))
    list_studies(stores, version)  # ranks it anew, which is no work of its holder's
    assert watch.stuck(before=taken_at + timedelta(microseconds=1))["held"] == 1
    assert watch.stuck(before=taken_at)["held"] == 0


@pytest.mark.parametrize("decided", ["promoted", "rejected", "a newer one judged"])
def test_a_version_waits_for_the_gate_until_it_is_decided_or_a_newer_one_was_judged(stores, version, decided):
    registry, tomorrow = stores.registry, datetime.now(UTC) + timedelta(days=1)
    assert stores.monitoring.stuck(before=tomorrow)["unjudged"] == 1
    if decided == "promoted":
        registry.promote(version, actor="dr", reason="by hand")
    elif decided == "rejected":
        registry.record_event(version, "rejected", actor="dr", reason="no")
    else:
        newer = register(stores, registry.version_of(version).snapshot_id).version
        assert stores.monitoring.stuck(before=tomorrow)["unjudged"] == 2
        registry.record_verdict(newer, Verdict(passed=True, reasons=(), measures={}), champion=None)
    assert stores.monitoring.stuck(before=tomorrow)["unjudged"] == 0


def test_a_days_numbers_and_an_open_alert_are_kept_once(stores, version):
    today = datetime.now(UTC).date()
    for measures in ({"psi": 0.1}, {"psi": 0.1}, {"psi": 0.2}):
        stores.monitoring.save_drift_report(today, version, measures)
    with stores.engine.connect() as connection:
        kept = connection.exec_driver_sql("SELECT day, version, measures FROM fracture.drift_report").all()
    assert kept == [(today, version, {"psi": 0.2})]
    raised = [stores.monitoring.raise_alert("drift", "version 1", "The scores moved.") for _ in range(2)]
    assert raised == [True, False]
    (before,) = stores.monitoring.open_alerts()
    assert before["sentence"] == "The scores moved."
    assert not stores.monitoring.raise_alert("drift", "version 1", "The inputs moved.")
    assert stores.monitoring.open_alerts() == [{**before, "sentence": "The inputs moved."}]
    assert [stores.monitoring.settle_alert("drift", "version 1") for _ in range(2)] == [True, False]
    assert stores.monitoring.open_alerts() == []
    assert stores.monitoring.raise_alert("drift", "version 1", "Again.")


def test_a_change_that_came_between_look_and_action_is_found_by_the_update_itself(stores, monkeypatch):
    receive(stores, arrival("a", study_key="s"))
    list_studies(stores)
    before = stores.worklist.item_of("s")
    stores.worklist.act("s", "acknowledge", actor="dr a", row_version=1)
    monkeypatch.setattr(worklist, "rows_of", stale("worklist_lock_item", before, worklist.rows_of))
    with pytest.raises(Conflict):
        stores.worklist.act("s", "acknowledge", actor="dr b", row_version=1)
    assert stores.worklist.item_of("s")["holder"] == "dr a"


def stale(name: str, row: dict, rows_of):
    """`rows_of`, whose query of this name sees a row as it was."""
    return lambda connection, asked, **named: [row] if asked == name else rows_of(connection, asked, **named)


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


def test_a_corrected_body_part_reaches_the_list(stores):
    receive(stores, arrival("a", study_key="s", body_part=BodyPart.HIP))
    list_studies(stores)
    with transaction(stores.engine) as connection:
        connection.execute(text("UPDATE fracture.radiograph SET body_part = 'hand'"))
    list_studies(stores)
    assert stores.worklist.item_of("s")["body_parts"] == ["hand"]


def test_of_a_study_that_was_read_the_clock_starts_with_what_came_after_that(stores):
    receive(stores, arrival("a", study_key="s"))
    with transaction(stores.engine) as connection:
        connection.execute(text("UPDATE fracture.radiograph SET received_at = received_at - interval '30 days'"))
    list_studies(stores)
    stores.worklist.act("s", "report", actor="dr", row_version=1, details={"value": "negative"})
    receive(stores, arrival("b", study_key="s"))
    list_studies(stores)
    row = stores.worklist.item_of("s")
    assert row["status"] == "reopened" and row["due_at"] > datetime.now(UTC)
    # Let go of, it is what it was: read once, and to be read again.
    row = stores.worklist.act("s", "acknowledge", actor="dr", row_version=row["row_version"])
    assert stores.worklist.act("s", "release", actor="dr", row_version=row["row_version"])["status"] == "reopened"


def test_a_late_image_that_was_read_before_its_ranking_is_not_asked_for_again(stores):
    receive(stores, arrival("a", study_key="s"))
    list_studies(stores)
    receive(stores, arrival("b", study_key="s"))
    stores.worklist.act("s", "report", actor="dr", row_version=1, details={"value": "negative"})  # of both
    list_studies(stores)
    assert stores.worklist.item_of("s")["status"] == "reported"
