"""Live performance from final reads, and when a person is asked to look."""

from datetime import UTC, datetime

import pytest

from fracture_ml.steps.monitor import MIN_FINAL_READS, live_performance, watch, write_report
from tests.stores.stored_rows import act, arrival, claim, freeze, list_studies, receive, register, scored


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
