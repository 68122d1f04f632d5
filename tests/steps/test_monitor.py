"""Live performance from final reads, and when a person is asked to look."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from fracture_ml.core.errors import StorageUnavailable
from fracture_ml.steps import monitor
from fracture_ml.steps.ingest import ingest_inbox
from fracture_ml.steps.monitor import MIN_FINAL_READS, live_performance, watch, write_report
from fracture_ml.steps.scoring_run import plan_scoring, reconcile
from fracture_ml.steps.worklist import behind, open_list
from fracture_ml.stores.bucket import Bucket
from tests.steps.refusing import Refusing
from tests.stores.stored_rows import act, arrival, claim, freeze, list_studies, receive, received, register, scored


def reads(version: int = 1, **counts: int) -> list[dict]:
    """Reads by what the AI showed and what was found, as urgent_positive=3."""
    rows = []
    for name, count in counts.items():
        shown, finding = name.split("_")
        rows += [{"version": version, "shown": shown, "finding": finding}] * count
    return rows


def test_live_figures_have_exact_intervals_and_say_how_many_reads_they_rest_on():
    live = live_performance(
        reads(urgent_positive=80, below_positive=20, below_negative=50, suspicious_negative=30, urgent_negative=20)
        + reads(2, unavailable_positive=7, suspicious_uncertain=1)
    )
    assert (live["final_reads"], live["with_a_score"], live["overrides"], live["versions"]) == (208, 201, 40, [1, 2])
    sensitivity = live["sensitivity"]
    assert (sensitivity["value"], sensitivity["n"]) == (0.8, 100)
    assert 0.708 < sensitivity["low"] < 0.709 and 0.873 < sensitivity["high"] < 0.874  # Clopper and Pearson, 80 of 100
    assert (live["specificity"]["value"], live["specificity_urgent"]["value"]) == (0.5, 0.8)


def test_few_final_reads_are_no_figure():
    live = live_performance(reads(urgent_positive=MIN_FINAL_READS - 1))
    assert live["sensitivity"] == {"value": None, "low": None, "high": None, "n": 29, "note": "not enough data"}


def put_on_list(stores, settings, *, images: int, evaluated: float) -> int:
    """A champion whose test split held studies of two images with these scores, none of them a fracture, and 40 studies
    on the list that it shows as suspicious."""
    views = [arrival(f"old {n}", study_key=f"old {n // 2}", claims=[claim(f"old {n}", "negative")]) for n in range(80)]
    ids = receive(stores, *views, arrival("old positive", claims=[claim("old positive")]))
    scores = [(id_, int(id_ == ids[-1]), evaluated) for id_ in ids]
    version = register(stores, freeze(stores), scores=scores).version
    stores.registry.promote(version, actor="a test", reason="a test")
    new = receive(stores, *(arrival(f"new {n}", study_key=f"s{n}") for n in range(images)))
    stores.predictions.save(version, [scored(id_, 0.5) for id_ in new])
    list_studies(stores, version)
    return version


def live_alerts(stores) -> list[str]:
    return [alert["sentence"] for alert in stores.monitoring.open_alerts() if alert["kind"] == "live"]


def test_a_person_is_asked_when_final_reads_exclude_the_target_and_no_longer_when_they_do_not(stores, settings):
    put_on_list(stores, settings, images=110, evaluated=0.1)
    for n in range(40):
        act(stores, f"s{n}", "report", value="positive")
    report = write_report(stores, settings, at=datetime.now(UTC))
    assert report["live"]["sensitivity"]["value"] == 1.0 and live_alerts(stores) == []
    with stores.engine.begin() as connection:  # as if a reader had been shown nothing of many
        connection.exec_driver_sql(
            "UPDATE fracture.worklist SET ai_priority = 'below' WHERE status = 'new' AND study_key LIKE 's%%'"
        )
    for n in range(40, 60):
        act(stores, f"s{n}", "report", value="positive")
    report = write_report(stores, settings, at=datetime.now(UTC))
    (sentence,) = live_alerts(stores)
    assert "Live sensitivity is 0.667 (0.533 to 0.783, 60 studies" in sentence and "version 1)" in sentence
    assert "at least 0.950 was to be expected" in sentence
    for n in range(40, 60):
        act(stores, f"s{n}", "reopen")
        act(stores, f"s{n}", "report", value="negative")
    write_report(stores, settings, at=datetime.now(UTC))
    assert live_alerts(stores) == []


def test_images_that_are_not_as_those_of_the_training_are_said(stores, settings):
    old = [arrival(f"old {n}", claims=[claim(f"old {n}", "negative")]) for n in range(60)]
    receive(stores, *old)
    snapshot_id = freeze(stores, training=60)
    stores.registry.promote(register(stores, snapshot_id).version, actor="a test", reason="a test")
    with stores.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE fracture.radiograph SET received_at = now() - interval '2 days'")
    receive(stores, *(arrival(f"new {n}", width_px=3000) for n in range(60)))
    report = write_report(stores, settings, at=datetime.now(UTC))
    assert report["drifting"] == ["width_px"]
    assert any(alert["kind"] == "drift" for alert in stores.monitoring.open_alerts())


def test_what_is_so_at_this_hour_is_settled_before_the_next_report(stores, settings):
    receive(stores, arrival("a", study_key="s"))
    list_studies(stores, None)
    with stores.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE fracture.worklist SET due_at = now() - interval '1 hour'")
    assert watch(stores, at=datetime.now(UTC))["overdue"] == 1
    assert {alert["kind"] for alert in stores.monitoring.open_alerts()} == {"overdue", "no_champion"}
    act(stores, "s", "report", value="negative")
    watch(stores, at=datetime.now(UTC))
    assert {alert["kind"] for alert in stores.monitoring.open_alerts()} == {"no_champion"}


@pytest.mark.parametrize(("evaluated", "alerts"), [(0.1, 1), (0.9, 0)])
def test_specificity_is_held_against_the_studies_of_the_test_split(stores, settings, evaluated, alerts):
    """A study is as urgent as its worst image: what was chosen by image does not hold for it."""
    put_on_list(stores, settings, images=40, evaluated=evaluated)
    with stores.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE fracture.worklist SET ai_priority = 'urgent' WHERE substr(study_key, 2)::int %% 2 = 0 "
            "AND study_key LIKE 's%%'"
        )
    for n in range(40):
        act(stores, f"s{n}", "report", value="negative")
    live = write_report(stores, settings, at=datetime.now(UTC))["live"]
    assert live["specificity_urgent"]["value"] == 0.5
    assert len(live_alerts(stores)) == alerts


def test_what_could_not_be_used_is_told_until_somebody_can_have_seen_it(stores, settings):
    friday = datetime.now(UTC)
    stores.radiographs.record_quarantined(received("inbox/half.png"), "truncated", "The PNG ends early.")
    for days, told in ((0, True), (3, True), (10, True), (15, False)):
        watch(stores, at=friday + timedelta(days=days))
        assert ("quarantine" in {alert["kind"] for alert in stores.monitoring.open_alerts()}) is told


def test_steps_that_nobody_hears_of_are_said_on_the_list(stores, settings):
    assert [(step["what"].split()[1], step["since"]) for step in behind(stores)] == [
        ("ingest", None),
        ("scoring", None),
    ]
    ingest_inbox(stores, settings)
    reconcile(stores, **plan_scoring(stores))
    assert open_list(stores, limit=10)["behind"] == []
    with stores.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE fracture.step_done SET done_at = done_at - interval '1 hour'")
    (stopped,) = open_list(stores, limit=10)["behind"]
    assert stopped["what"] == "No ingest of new radiographs has ended"
    assert timedelta(minutes=59) < datetime.now(UTC) - stopped["since"] < timedelta(minutes=65)


@pytest.mark.parametrize(("code", "status"), [("AccessDenied", 403), ("InternalError", 500)])
def test_a_champion_whose_bundle_the_bucket_withholds_is_stood_in_for(stores, settings, bucket, code, status):
    receive(stores, arrival("a", claims=[claim("a")]), arrival("b", claims=[claim("b", "negative")]))
    snapshot_id = freeze(stores)
    for number in range(2):
        bucket.write(f"models/{number}/bundle.pt", b"bundle %d" % number)
        version = register(stores, snapshot_id, bundle=(f"models/{number}/bundle.pt", b"bundle %d" % number)).version
        stores.registry.promote(version, actor="a test", reason="a test")
    first, champion = 1, 2
    withheld = {"models/1/bundle.pt"}
    guarded = replace(stores, bucket=Bucket(Refusing(bucket._client, code, withheld, status=status), bucket.name))
    assert plan_scoring(guarded)["version"] == first
    (alert,) = [alert for alert in stores.monitoring.open_alerts() if alert["kind"] == "bundle"]
    assert "or the bucket withholds it; version 1 keeps scoring" in alert["sentence"]
    withheld.add("models/0/bundle.pt")
    with pytest.raises(StorageUnavailable):  # then it is not the object's fault
        plan_scoring(guarded)
    assert plan_scoring(stores)["version"] == champion
    assert [alert for alert in stores.monitoring.open_alerts() if alert["kind"] == "bundle"] == []


def test_the_own_reads_of_a_champion_count_alone_once_they_are_enough_of_each_class():
    """A champion of one night has few, and then all reads say more than none."""
    earlier = reads(1, below_positive=40, urgent_negative=40)
    few = reads(2, urgent_positive=MIN_FINAL_READS, below_negative=MIN_FINAL_READS - 1, unavailable_negative=50)
    enough = reads(2, urgent_positive=MIN_FINAL_READS, below_negative=MIN_FINAL_READS)
    assert monitor._own_where_enough(earlier + few, 2) == earlier + few
    assert monitor._own_where_enough(earlier + enough, 2) == enough


def test_the_reads_of_ninety_days_count_and_older_ones_do_not(stores, settings):
    put_on_list(stores, settings, images=40, evaluated=0.1)
    with stores.engine.begin() as connection:  # history is only ever added
        connection.exec_driver_sql(
            "INSERT INTO fracture.worklist_event (study_key, event, actor, details, happened_at) "
            "SELECT study_key, 'reported', 'dr a', "
            "  jsonb_build_object('value', 'positive', 'ai_priority', ai_priority, 'version', version), "
            "  now() - make_interval(days => CASE WHEN study_key IN ('s0', 's1') THEN 91 ELSE 89 END) "
            "FROM fracture.worklist WHERE study_key LIKE 's%%'"
        )
    live = write_report(stores, settings, at=datetime.now(UTC))["live"]
    assert (live["final_reads"], live["sensitivity"]["n"]) == (38, 38)


@pytest.mark.parametrize(("flagged", "alerts"), [(26, 1), (27, 0)])
def test_sensitivity_is_held_against_the_test_split_where_that_promised_more_than_the_target(
    stores, settings, flagged, alerts
):
    """26 of 30 exclude what 100 of 100 on the test split promise at least, and 27 of 30 do not."""
    old = receive(stores, *(arrival(f"old {n}", claims=[claim(f"old {n}")]) for n in range(100)))
    scores = [(id_, 1, 0.5) for id_ in old]
    version = register(stores, freeze(stores), scores=scores).version
    stores.registry.promote(version, actor="a test", reason="a test")
    new = receive(stores, *(arrival(f"new {n}", study_key=f"s{n}") for n in range(30)))
    stores.predictions.save(version, [scored(id_, 0.5) for id_ in new])
    list_studies(stores, version)
    with stores.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE fracture.worklist SET ai_priority = 'below' "
            f"WHERE study_key LIKE 's%%' AND substr(study_key, 2)::int >= {flagged}"
        )
    for n in range(30):
        act(stores, f"s{n}", "report", value="positive")
    live = write_report(stores, settings, at=datetime.now(UTC))["live"]
    promised = 0.025 ** (1 / 100)
    assert 0.95 < live["sensitivity"]["high"] and (live["sensitivity"]["high"] < promised) == (alerts == 1)
    assert len(live_alerts(stores)) == alerts


def test_what_stands_still_for_half_a_day_and_what_was_quarantined_is_said(stores):
    receive(stores, arrival("a", study_key="s"), arrival("b", study_key="t"))
    list_studies(stores)
    act(stores, "s", "start_reading")
    receive(stores, arrival("c", study_key="u"))
    stores.radiographs.record_quarantined(received("inbox/broken.png"), "truncated", "The file ends early.")

    def open_at(hours: float) -> set[tuple[str, str]]:
        watch(stores, at=datetime.now(UTC) + timedelta(hours=hours))
        return {(alert["kind"], alert["subject"]) for alert in stores.monitoring.open_alerts()}

    led = ("no_champion", "registry")
    assert open_at(11) == {led, ("quarantine", "inbox")}
    assert open_at(13) == {led, ("quarantine", "inbox"), ("stuck", "held"), ("stuck", "unlisted")}
    list_studies(stores)
    act(stores, "s", "release")
    assert open_at(13) == {led, ("quarantine", "inbox")}
    assert open_at(13 * 24) == {led, ("quarantine", "inbox")}
    assert open_at(15 * 24) == {led}


def test_only_a_large_drift_is_an_alert(stores, settings, monkeypatch):
    receive(stores, arrival("a", claims=[claim("a")]), arrival("b", claims=[claim("b", "negative")]))
    stores.registry.promote(register(stores, freeze(stores)).version, actor="a test", reason="a test")
    for level, alerts in (("moderate", []), ("large", ["drift"]), ("stable", [])):
        monkeypatch.setattr(monitor, "summarise", lambda *_, level=level: {"score": {"level": level}})
        assert write_report(stores, settings, at=datetime.now(UTC))["drifting"] == ["score"] * len(alerts)
        assert [alert["kind"] for alert in stores.monitoring.open_alerts()] == alerts


def test_a_report_holds_live_scores_against_those_of_the_test_split(stores, settings):
    old = receive(stores, *(arrival(f"old {n}", claims=[claim(f"old {n}")]) for n in range(60)))
    scores = [(id_, 1, n / 60) for n, id_ in enumerate(old)]
    version = register(stores, freeze(stores), scores=scores).version
    stores.registry.promote(version, actor="a test", reason="a test")
    with stores.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE fracture.radiograph SET received_at = now() - interval '2 days'")
    new = receive(stores, *(arrival(f"new {n}") for n in range(50)))
    stores.predictions.save(version, [scored(id_, 0.99) for id_ in new])
    assert write_report(stores, settings, at=datetime.now(UTC))["drifting"] == ["score"]
    with stores.engine.connect() as connection:
        (drift,) = connection.exec_driver_sql(
            "SELECT measures -> 'drift' -> 'score' FROM fracture.drift_report"
        ).scalars()
    assert (drift["n_reference"], drift["n_current"]) == (60, 50)


def test_what_is_suspicious_is_held_against_no_target_of_specificity(stores, settings):
    """That target is of urgent alone: most of what is suspicious is sound, and was chosen to be."""
    put_on_list(stores, settings, images=40, evaluated=0.1)
    for n in range(40):
        act(stores, f"s{n}", "report", value="negative")
    live = write_report(stores, settings, at=datetime.now(UTC))["live"]
    assert (live["specificity"]["value"], live["specificity_urgent"]["value"]) == (0.0, 1.0)
    assert live_alerts(stores) == []


def test_a_report_holds_the_median_time_to_the_first_read(stores, settings):
    put_on_list(stores, settings, images=3, evaluated=0.1)
    with stores.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE fracture.worklist "
            "SET arrived_at = now() - make_interval(mins => 10 + 20 * right(study_key, 1)::int) "
            "WHERE study_key IN ('s0', 's1', 's2')"
        )
    for n in range(3):
        act(stores, f"s{n}", "report", value="positive")
    write_report(stores, settings, at=datetime.now(UTC))
    with stores.engine.connect() as connection:
        (measures,) = connection.exec_driver_sql("SELECT measures FROM fracture.drift_report").scalars()
    assert measures["median_minutes_to_read"] == {"ROUTINE": pytest.approx(30, abs=0.2)}
