import json

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    cohen_kappa_score,
    confusion_matrix,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from fracture_ml.core.records import OperatingPoints
from fracture_ml.evaluation.metrics import evaluate, interval_of, resampled_weights, subgroup_table, weighted_auroc

POINTS = OperatingPoints(t_sensitivity=0.2, t_specificity=0.7, target_sensitivity=0.95, target_specificity=0.95)


def drawn(n=400, seed=0):
    """Calibrated scores with ties, labels, and groups of two."""
    generator = np.random.default_rng(seed)
    labels = (generator.random(n) < 0.25).astype(int)
    scores = np.round(1 / (1 + np.exp(-(generator.normal(size=n) + 2 * labels - 1.5))), 2)
    return scores, labels, [f"patient:{index // 2}" for index in range(n)]


def test_the_figures_are_those_of_scikit_learn():
    scores, labels, groups = drawn()
    found = evaluate(scores, labels, groups, POINTS)
    assert found["auroc"]["value"] == pytest.approx(roc_auc_score(labels, scores))
    assert found["auprc"]["value"] == pytest.approx(average_precision_score(labels, scores))
    assert found["brier"]["value"] == pytest.approx(brier_score_loss(labels, scores))
    flagged = scores >= 0.7
    assert found["at_t_specificity"]["kappa"]["value"] == pytest.approx(cohen_kappa_score(labels, flagged))
    assert found["at_t_specificity"]["f1"]["value"] == pytest.approx(f1_score(labels, flagged))
    assert found["at_half"]["accuracy"]["value"] == pytest.approx(((scores >= 0.5) == labels).mean())
    for name, threshold in (("at_t_sensitivity", 0.2), ("at_t_specificity", 0.7), ("at_half", 0.5)):
        point, flagged = found[name], scores >= threshold
        tn, fp, fn, tp = confusion_matrix(labels, flagged).ravel()
        assert point["confusion"] == {"tp": tp, "fp": fp, "fn": fn, "tn": tn}
        assert point["sensitivity"]["value"] == pytest.approx(recall_score(labels, flagged))
        assert point["specificity"]["value"] == pytest.approx(recall_score(labels, flagged, pos_label=0))
        assert point["ppv"]["value"] == pytest.approx(precision_score(labels, flagged))
        assert point["npv"]["value"] == pytest.approx(precision_score(labels, flagged, pos_label=0))


def test_a_weighted_auroc_is_that_of_the_images_repeated():
    scores, labels, groups = drawn(60)
    weights = resampled_weights(groups, 5, seed=3)
    assert weights.sum(axis=1) == pytest.approx(60)
    for row, value in zip(weights.astype(int), weighted_auroc(scores, labels, weights), strict=True):
        assert value == pytest.approx(roc_auc_score(np.repeat(labels, row), np.repeat(scores, row)))


def test_images_of_one_patient_are_drawn_together_and_widen_the_interval():
    scores, labels, _ = drawn(100)
    alone = evaluate(scores, labels, [str(index) for index in range(100)], POINTS)["auroc"]
    copied = [np.repeat(part, 8) for part in (scores, labels)]
    same_patients = evaluate(*copied, [str(index // 8) for index in range(800)], POINTS)["auroc"]
    width = same_patients["high"] - same_patients["low"]
    assert width == pytest.approx(alone["high"] - alone["low"], rel=0.15)


def test_an_interval_holds_the_middle_95_percent_of_the_resamples_that_are_defined():
    found = interval_of(0.5, np.r_[np.linspace(0, 1, 1001), np.full(500, np.nan)])
    assert found == {"value": 0.5, "low": pytest.approx(0.025), "high": pytest.approx(0.975)}


def test_one_class_only_gives_none_and_never_nan():
    found = evaluate(np.array([0.1, 0.9]), np.array([0, 0]), ["a", "b"], POINTS)
    json.dumps(found, allow_nan=False)
    assert found["auroc"] == {"value": None, "low": None, "high": None}
    assert found["at_half"]["sensitivity"]["value"] is None
    assert found["at_half"]["specificity"]["value"] == 0.5


def test_a_perfect_share_of_few_images_does_not_claim_certainty():
    found = evaluate(np.array([0.9, 0.8, 0.95, 0.1]), np.array([1, 1, 1, 0]), list("abcd"), POINTS)
    sensitivity = found["at_t_sensitivity"]["sensitivity"]
    assert sensitivity["value"] == sensitivity["high"] == 1.0
    assert sensitivity["low"] == pytest.approx(0.025 ** (1 / 3))


def test_the_images_of_one_patient_are_one_where_a_perfect_share_is_judged():
    scores, labels = np.array([0.9, 0.8, 0.95, 0.9, 0.7, 0.8, 0.1, 0.1]), np.array([1, 1, 1, 1, 1, 1, 0, 0])
    found = evaluate(scores, labels, list("aabbccde"), POINTS)
    assert found["at_t_sensitivity"]["sensitivity"]["low"] == pytest.approx(0.025 ** (1 / 3))
    assert found["auroc"]["low"] == pytest.approx(0.025 ** (1 / 2))  # of the rarer class


def test_alerts_and_ppv_follow_the_site_and_not_the_data():
    scores, labels, groups = drawn()
    found = evaluate(scores, labels, groups, POINTS, prevalence=0.02)["at_t_sensitivity"]
    sensitivity, specificity = found["sensitivity"]["value"], found["specificity"]["value"]
    alerts = sensitivity * 0.02 + (1 - specificity) * 0.98
    assert found["alerts_per_100_studies"]["value"] == pytest.approx(100 * alerts)
    assert found["ppv_at_site_prevalence"]["value"] == pytest.approx(sensitivity * 0.02 / alerts)
    assert found["ppv_at_site_prevalence"]["value"] < found["ppv"]["value"]


def test_subgroups_that_are_too_small_are_listed_without_figures_and_the_worst_gap_is_named():
    scores, labels, groups = drawn()
    scores[100:200] = np.random.default_rng(1).random(100)  # the model is blind here
    parts = ["hand"] * 100 + ["hip"] * 100 + ["leg"] * 195 + ["spine"] * 5
    table = subgroup_table(scores, labels, [{"body_part": part} for part in parts], POINTS, groups=groups)
    rows = {row["value"]: row for row in table["rows"]}
    assert rows["spine"]["n"] == 5 and rows["spine"]["auroc"] is None
    assert table["worst_gap"]["value"] == "hip"
    assert table["worst_gap"]["gap"] > 0.1
    json.dumps(table, allow_nan=False)


def test_the_figures_of_a_subgroup_are_those_of_its_images_at_the_lower_point():
    scores, labels, groups = drawn()
    parts = np.array(["hand", "hip", "hip", "hip"] * 100)
    table = subgroup_table(scores, labels, [{"body_part": part} for part in parts], POINTS, groups=groups)
    assert [row["value"] for row in table["rows"]] == ["hand", "hip"]
    for row in table["rows"]:
        s, y = scores[parts == row["value"]], labels[parts == row["value"]]
        assert (row["n"], row["positives"]) == (len(y), y.sum())
        assert row["auroc"]["value"] == pytest.approx(roc_auc_score(y, s))
        assert row["sensitivity"]["value"] == pytest.approx(recall_score(y, s >= POINTS.t_sensitivity))
        assert row["specificity"]["value"] == pytest.approx(recall_score(y, s >= POINTS.t_sensitivity, pos_label=0))


def test_in_a_subgroup_too_a_patient_is_drawn_whole_and_a_perfect_share_claims_no_certainty():
    scores, labels, _ = drawn(60)
    parts, copies = [{"body_part": "hip"}] * 60, [{"body_part": "hip"}] * 480
    (alone,) = subgroup_table(scores, labels, parts, POINTS, resamples=1000)["rows"]
    of_patients = [str(index // 8) for index in range(480)]
    copied = [np.repeat(part, 8) for part in (scores, labels)]
    (together,) = subgroup_table(*copied, copies, POINTS, groups=of_patients, resamples=1000)["rows"]
    for figure in ("auroc", "specificity"):
        width = together[figure]["high"] - together[figure]["low"]
        assert width == pytest.approx(alone[figure]["high"] - alone[figure]["low"], rel=0.2)
    (perfect,) = subgroup_table(np.r_[np.full(5, 0.9), np.full(25, 0.1)], np.r_[np.ones(5), np.zeros(25)],
                                parts[:30], POINTS)["rows"]  # fmt: skip
    assert perfect["auroc"]["low"] == perfect["sensitivity"]["low"] == pytest.approx(0.025 ** (1 / 5))
    assert perfect["specificity"]["low"] == pytest.approx(0.025 ** (1 / 25))


def test_a_subgroup_with_hardly_a_positive_is_not_named_the_worst():
    scores, labels, groups = drawn()
    order = np.argsort(-labels, kind="stable")
    scores, labels = scores[order], labels[order]
    parts = np.array(["hand"] * len(labels), dtype=object)
    few = [*np.flatnonzero(labels == 1)[:2], *np.flatnonzero(labels == 0)[:40]]
    parts[few], scores[few[:2]] = "rare", 0.0  # two positives, at the very bottom by chance
    table = subgroup_table(scores, labels, [{"body_part": part} for part in parts], POINTS, groups=groups)
    rows = {row["value"]: row for row in table["rows"]}
    assert rows["rare"]["auroc"]["value"] == 0.0 and table["worst_gap"]["value"] == "hand"


def test_the_interval_of_a_calibration_error_holds_the_error():
    rng = np.random.default_rng(3)
    scores = rng.random(300)
    labels = (rng.random(300) < scores).astype(int)  # calibrated, so that all of its error is chance
    ece = evaluate(scores, labels, [str(n) for n in range(300)], POINTS)["ece"]
    assert 0 <= ece["low"] < ece["value"] < ece["high"]


def test_a_score_that_is_not_a_number_is_refused():
    with pytest.raises(ValueError):
        evaluate(np.array([0.1, np.nan]), np.array([0, 1]), ["a", "b"], POINTS)


def test_what_follows_from_a_perfect_share_claims_no_certainty_either():
    scores = np.r_[np.linspace(0.8, 0.9, 5), np.linspace(0.1, 0.4, 25)]
    labels = np.r_[np.ones(5, int), np.zeros(25, int)]
    found = evaluate(scores, labels, [str(n) for n in range(30)], POINTS, prevalence=0.05)
    point = found["at_half"]
    assert point["sensitivity"]["value"] == point["specificity"]["value"] == 1.0
    false_alarms = 1 - point["specificity"]["low"]
    assert point["ppv_at_site_prevalence"]["low"] == pytest.approx(0.05 / (0.05 + 0.95 * false_alarms))
    assert point["alerts_per_100_studies"]["high"] == pytest.approx(100 * (0.05 + 0.95 * false_alarms))
    assert point["alerts_per_100_studies"]["low"] == pytest.approx(100 * 0.05 * point["sensitivity"]["low"])
    for figure in ("f1", "kappa"):
        assert 0 < point[figure]["low"] < point[figure]["value"] == point[figure]["high"] == 1.0
    for figure in ("auroc", "auprc"):
        assert found[figure] == {"value": 1.0, "low": pytest.approx(0.025 ** (1 / 5)), "high": 1.0}
