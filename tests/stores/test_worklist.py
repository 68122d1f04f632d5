"""The worklist: changed by people, one of them at a time; and what is watched of it."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from fracture_ml.core.errors import Conflict, HeldByAnother, NotAllowed, UnknownItem
from fracture_ml.core.records import BodyPart, OperatingPoint, Verdict
from fracture_ml.stores import worklist
from fracture_ml.stores.database import rows_of, transaction
from tests.stores.stored_rows import (
    act,
    arrival,
    claim,
    events,
    freeze,
    list_studies,
    receive,
    received,
    register,
    scored,
)

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


def test_an_item_stays_on_the_open_list_until_it_is_reported(stores):
    receive(stores, arrival("a", study_key="s"))
    list_studies(stores)
    steps = [("acknowledge", 1), ("start_reading", 1), ("report", 0), ("close", 0), ("reopen", 1), ("start_reading", 1)]
    for action, listed in steps:
        act(stores, "s", action, **({"value": "negative"} if action == "report" else {}))
        assert len(stores.worklist.open_items()) == stores.worklist.counts()["open"] == listed, action
        assert len(stores.worklist.finished_items()) == 1 - listed, action


def test_of_two_final_reads_of_a_study_the_last_one_is_shown_and_the_list_holds_it_once(stores):
    receive(stores, arrival("a", study_key="s"))
    list_studies(stores)
    act(stores, "s", "report", value="negative")
    act(stores, "s", "reopen")
    assert stores.worklist.finished_items() == []
    act(stores, "s", "report", actor="dr b", value="positive")
    (row,) = stores.worklist.finished_items()
    assert (row["final_read"], row["reader"]) == ("positive", "dr b")


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


def test_the_watch_tells_one_version_from_another(stores, version):
    (id_,) = receive(stores, arrival("a", study_key="s"))
    snapshot_id = stores.registry.version_of(version).snapshot_id
    first, second = stores.snapshots.members_of(snapshot_id)  # `version` was evaluated on the second
    score = (first.radiograph_id, first.label, 0.75)
    later = register(stores, snapshot_id, scores=[score]).version
    stores.predictions.save(version, [replace(scored(id_, 0.5), calibrated=0.25)])
    stores.predictions.save(later, [replace(scored(id_, 0.5), calibrated=0.75)])
    list_studies(stores, later)
    act(stores, "s", "report", value="negative")
    now, tomorrow = datetime.now(UTC), datetime.now(UTC) + timedelta(days=1)
    for one, expected, member in ((version, 0.25, second), (later, 0.75, first)):
        assert stores.monitoring.live_scores(one, now) == [expected]
        assert stores.monitoring.training_scores(one) == [expected]
        assert stores.monitoring.evaluated_studies(one) == [(expected, member.label == 1)]
        assert [row.radiograph_id for row in stores.registry.evaluation_scores_of(one)] == [member.radiograph_id]
    (read,) = stores.monitoring.final_reads(now - timedelta(days=1), tomorrow)
    assert read["version"] == later


def test_an_evaluated_study_is_as_urgent_as_its_worst_image_and_broken_where_one_shows_it(stores):
    told = {"sound": "negative", "broken": "positive"}
    ids = receive(stores, *(arrival(key, study_key="s", claims=[claim(key, value)]) for key, value in told.items()))
    scores = list(zip(ids, (0, 1), (0.75, 0.25), strict=True))
    version = register(stores, freeze(stores), scores=scores).version
    assert stores.monitoring.evaluated_studies(version) == [(0.75, True)]


def test_a_missed_fracture_is_one_that_was_there_and_was_not_flagged(stores, version):
    findings = {"missed": (0.1, "positive"), "found": (0.5, "positive"), "sound": (0.1, "negative")}
    ids = receive(stores, *(arrival(key, study_key=key) for key in findings))
    stores.predictions.save(
        version,
        [
            replace(scored(id_, score), operating_point=OperatingPoint.BELOW if score < 0.3 else "suspicious")
            for id_, (score, _) in zip(ids, findings.values(), strict=True)
        ],
    )
    list_studies(stores, version)
    for key, (_, value) in findings.items():
        act(stores, key, "report", value=value)
    with transaction(stores.engine) as connection:
        assert [row["study_key"] for row in rows_of(connection, "missed_fractures")] == ["missed"]


def test_the_time_to_read_ends_with_the_first_final_read_and_counts_on_its_day_alone(stores):
    receive(stores, arrival("a", study_key="s"))
    list_studies(stores)
    with transaction(stores.engine) as connection:
        connection.execute(text("UPDATE fracture.worklist SET arrived_at = now() - interval '90 minutes'"))
        for event, minutes in (("acknowledged", 80), ("reported", 60), ("reopened", 50)):
            connection.execute(
                text(
                    "INSERT INTO fracture.worklist_event (study_key, event, actor, happened_at) "
                    "VALUES ('s', :event, 'dr a', now() - make_interval(mins => :minutes))"
                ),
                {"event": event, "minutes": minutes},
            )
    act(stores, "s", "report", value="negative")
    now = datetime.now(UTC)
    until = now + timedelta(minutes=1)
    assert stores.monitoring.minutes_to_read(until) == {"ROUTINE": [pytest.approx(30, abs=0.1)]}
    assert stores.monitoring.minutes_to_read(now + timedelta(hours=23, minutes=30)) == {}, "it was read again then"


def test_the_facts_of_a_day_are_those_of_what_was_received_in_it(stores):
    receive(stores, arrival("a"))
    now = datetime.now(UTC)
    counts = [len(stores.monitoring.live_facts(now + timedelta(hours=hours))["view"]) for hours in (-1, 0, 23, 25)]
    assert counts == [0, 1, 1, 0]


def test_what_was_quarantined_is_told_for_its_time_and_as_long_as_it_is(stores):
    now, broken = datetime.now(UTC), received("inbox/a.png")
    stores.radiographs.record_quarantined(broken, "truncated", "The file ends early.")
    hour = timedelta(hours=1)
    assert stores.monitoring.quarantined(since=now - hour) == 1
    assert stores.monitoring.quarantined(since=now + hour) == 0
    stores.radiographs.retry_quarantined("truncated", [broken])
    assert stores.monitoring.quarantined(since=now - hour) == 0


@pytest.mark.parametrize("action", ["acknowledge", "start_reading"])
def test_nothing_is_stuck_before_its_time(stores, version, action):
    receive(stores, arrival("a", study_key="s"))
    list_studies(stores)
    act(stores, "s", action)
    receive(stores, arrival("b", study_key="t"))
    now = datetime.now(UTC)
    assert set(stores.monitoring.stuck(before=now - timedelta(hours=1)).values()) == {0}
    assert stores.monitoring.stuck(before=now + timedelta(hours=1)) == {"held": 1, "unlisted": 1, "unjudged": 1}


def test_an_alert_is_settled_by_itself(stores):
    told = [("drift", "champion"), ("bundle", "version 1"), ("bundle", "version 2"), ("stuck", "champion")]
    for kind, subject in told:
        assert stores.monitoring.raise_alert(kind, subject, "Look.")
    assert stores.monitoring.settle_alert("bundle", "version 1") and stores.monitoring.settle_alert("stuck", "champion")
    assert [(one["kind"], one["subject"]) for one in stores.monitoring.open_alerts()] == [told[0], told[2]]


@pytest.mark.parametrize("decided", ["promoted", "rejected", "a newer one judged"])
def test_a_version_waits_for_the_gate_until_it_is_decided_or_a_newer_one_was_judged(stores, version, decided):
    registry, tomorrow = stores.registry, datetime.now(UTC) + timedelta(days=1)
    assert stores.monitoring.stuck(before=tomorrow)["unjudged"] == 1
    if decided == "promoted":
        registry.promote(version, actor="dr", reason="by hand")
    elif decided == "rejected":
        registry.reject(version, actor="dr", reason="no")
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
