"""Whose score a study shows while several versions have been champion: a fault makes no study less urgent."""

from collections import Counter
from dataclasses import replace

import pytest

from fracture_ml.core.errors import BundleMismatch, OutOfMemory
from fracture_ml.core.records import ModelVersion, OperatingPoint
from fracture_ml.scoring import score as scoring
from fracture_ml.steps import scoring_run
from fracture_ml.steps.score import score_batch
from fracture_ml.steps.worklist import rank_worklist
from fracture_ml.stores import Stores
from fracture_ml.stores.predictions import PredictionRow
from tests.steps import drawn_backlog
from tests.steps.drawn_backlog import promote_drawn, receive_drawn
from tests.stores.stored_rows import act

_PLACES = {0.1: OperatingPoint.BELOW, 0.5: OperatingPoint.SUSPICIOUS, 0.99: OperatingPoint.URGENT}


@pytest.fixture(autouse=True)
def nobody_waits(monkeypatch):
    monkeypatch.setattr("fracture_ml.steps.patience._GIVE_UP_AFTER_S", 0.0)


def give(stores: Stores, version: int, outcomes: dict[int, float | str]) -> None:
    """Outcomes as if scored: a score, or a reason."""
    rows = [
        PredictionRow(radiograph_id=id_, reason=given)
        if isinstance(given, str)
        else PredictionRow(radiograph_id=id_, probability=given, calibrated=given, operating_point=_PLACES[given])
        for id_, given in outcomes.items()
    ]
    stores.predictions.save(version, rows)


def score_an_hour(stores: Stores, settings, retry: str | None = None) -> dict[str, int]:
    plan = scoring_run.plan_scoring(stores, retry_unscored=retry)
    for batch in scoring_run.cut_batches(stores, batch_size=2000, **plan):
        score_batch(stores, settings, **batch)
    rank_worklist(stores, settings, version=plan["version"])
    return scoring_run.reconcile(stores, **plan)


def shown(stores: Stores, study_key: str = "S") -> tuple[str, int | None]:
    item = stores.worklist.item_of(study_key)
    return item["ai_priority"], item["version"]


def break_bundle_of(stores: Stores, model: ModelVersion) -> None:
    stores.bucket.write(model.bundle_key, b"damaged")


def two_champions(stores: Stores, settings, scores: dict[float, float | str]) -> tuple[int, ModelVersion, list[int]]:
    """A study with an image for each of these scores of the first champion, and what the second says of it."""
    ids = receive_drawn(stores, len(scores), study_key="S")
    first = promote_drawn(stores).version
    give(stores, first, dict(zip(ids, scores, strict=True)))
    rank_worklist(stores, settings)
    second = promote_drawn(stores, seed=1)
    give(stores, second.version, dict(zip(ids, scores.values(), strict=True)))
    rank_worklist(stores, settings)
    return first, second, ids


def test_a_stand_in_that_scores_a_late_view_does_not_lower_the_study(stores, settings):
    _, second, _ = two_champions(stores, settings, {0.1: 0.99})
    assert shown(stores) == ("urgent", second.version)
    break_bundle_of(stores, second)
    (late,) = receive_drawn(stores, 1, study_key="S")
    score_an_hour(stores, settings)
    item = stores.worklist.item_of("S")
    assert stores.predictions.prediction_of(item["version"], late) is None  # the stand-in alone has scored it
    assert shown(stores) == ("urgent", second.version)


def test_a_late_view_that_a_stand_in_finds_more_urgent_is_shown(stores, settings):
    first, second, _ = two_champions(stores, settings, {0.1: 0.5})
    break_bundle_of(stores, second)
    (late,) = receive_drawn(stores, 1, study_key="S")
    give(stores, first, {late: 0.99})
    score_an_hour(stores, settings)
    assert shown(stores) == ("urgent", first)


@pytest.mark.parametrize("late_rank", [True, False])
def test_a_reason_that_is_taken_back_lets_no_earlier_score_lower_the_study(stores, settings, late_rank):
    ids = receive_drawn(stores, 2, study_key="S")
    first = promote_drawn(stores).version
    give(stores, first, dict.fromkeys(ids, 0.1))
    rank_worklist(stores, settings)
    second = promote_drawn(stores, seed=1)
    give(stores, second.version, {ids[0]: 0.99, ids[1]: "not_readable: x"})
    rank_worklist(stores, settings)
    assert shown(stores) == ("urgent", second.version)
    assert scoring_run.plan_scoring(stores, retry_unscored="not_readable")["version"] == second.version
    if late_rank:
        rank_worklist(stores, settings, version=first)
    else:
        break_bundle_of(stores, second)
        score_an_hour(stores, settings)
    assert shown(stores) == ("urgent", second.version)


def test_a_new_champion_that_cannot_score_an_image_does_not_take_its_urgency(stores, settings):
    first, _, ids = two_champions(stores, settings, {0.99: "altered: x"})
    assert shown(stores) == ("urgent", first)
    stores.registry.roll_back(actor="a test", reason="a test")  # and again by a third, which can
    third = promote_drawn(stores, seed=2).version
    give(stores, third, {ids[0]: 0.1})
    rank_worklist(stores, settings)
    assert shown(stores) == ("below", third)


def test_what_was_rolled_back_is_shown_no_more_however_urgent_it_was(stores, settings):
    first, _, _ = two_champions(stores, settings, {0.1: 0.99})
    stores.registry.roll_back(actor="a test", reason="a test")
    rank_worklist(stores, settings)
    assert shown(stores) == ("below", first)


def test_what_people_have_read_is_not_scored_anew_until_they_reopen_it(stores, settings):
    ids = receive_drawn(stores, 2, study_key="S")
    version = promote_drawn(stores).version
    give(stores, version, {ids[0]: 0.1, ids[1]: "not_readable: x"})
    rank_worklist(stores, settings)
    act(stores, "S", "report", value="negative")
    assert stores.predictions.retry(version, "not_readable") == 0
    act(stores, "S", "reopen")
    assert stores.predictions.retry(version, "not_readable") == 1
    score_an_hour(stores, settings)
    assert stores.worklist.item_of("S")["images_unscored"] == 0


def test_a_retry_is_of_one_version_and_of_all_its_reasons_of_that_code(stores, settings):
    ids = receive_drawn(stores, 5)
    first, second = promote_drawn(stores).version, promote_drawn(stores, seed=1).version
    for version in (first, second):
        give(
            stores,
            version,
            {**dict.fromkeys(ids, 0.1), ids[1]: "altered: x", ids[3]: "altered: x", ids[2]: "corrupt: x"},
        )
        assert stores.predictions.reconcile(version)["missing"] == 0
    assert stores.predictions.retry(second, "altered") == 2
    assert stores.predictions.due_ranges(second, batch_size=1) == [(ids[3], ids[3]), (ids[1], ids[1])]
    assert stores.predictions.reconcile(first)["missing"] == 0
    break_bundle_of(stores, stores.registry.version_of(second))
    plan = scoring_run.plan_scoring(stores, retry_unscored="altered")  # of the version that scores: the stand-in
    assert plan["version"] == first and stores.predictions.reconcile(first)["missing"] == 2


def test_a_machine_without_memory_costs_no_study_its_place(stores, settings, monkeypatch):
    receive_drawn(stores, 12)
    promote_drawn(stores, flagged_from=0.0)
    score_an_hour(stores, settings)
    before = Counter(row["ai"] for row in stores.worklist.open_items(limit=20))
    second = promote_drawn(stores, seed=1, flagged_from=0.0).version

    def without_memory(*_, **__):
        raise MemoryError

    with monkeypatch.context() as patched, pytest.raises(OutOfMemory):
        patched.setattr(scoring, "view_of", without_memory)
        score_an_hour(stores, settings)
    assert Counter(row["ai"] for row in stores.worklist.open_items(limit=20)) == before
    assert score_an_hour(stores, settings)["scored"] == 12
    assert {row["model_version"] for row in stores.worklist.open_items(limit=20)} == {second}


def test_a_picture_for_which_there_is_no_memory_costs_no_score(stores, settings, monkeypatch):
    (id_,) = receive_drawn(stores, 1)
    version = promote_drawn(stores, flagged_from=0.0).version

    def without_memory(*_):
        raise MemoryError

    monkeypatch.setattr(scoring.heat_map, "overlay_png", without_memory)
    score_an_hour(stores, settings)
    outcome = stores.predictions.prediction_of(version, id_)
    assert outcome["calibrated"] is not None and outcome["overlay_key"] is None


def test_a_bundle_whose_calibration_this_code_does_not_know_is_refused_and_the_one_before_stands_in(
    stores, settings, monkeypatch
):
    receive_drawn(stores, 3)
    first = promote_drawn(stores).version
    made = drawn_backlog.drawn_bundle
    monkeypatch.setattr(
        drawn_backlog,
        "drawn_bundle",
        lambda *given, **named: replace(made(*given, **named), calibration={"knots": 3.0}),
    )
    promote_drawn(stores, seed=1)
    with pytest.raises(BundleMismatch, match="calibration"):
        score_an_hour(stores, settings)
    assert score_an_hour(stores, settings)["scored"] == 3
    assert {row["model_version"] for row in stores.worklist.open_items(limit=5)} == {first}
