import numpy as np
import pytest

from fracture_ml.core.errors import TrainingDiverged
from fracture_ml.evaluation.calibration import Calibration, calibration_error, fit_temperature, reliability


def overconfident(n=4000, seed=0):
    """Logits (N, 2) whose margin is three times and one unit too high, and the labels that they should speak of."""
    generator = np.random.default_rng(seed)
    truth = generator.normal(-1, 1.5, n)
    labels = (generator.random(n) < 1 / (1 + np.exp(-truth))).astype(int)
    margin = 3 * (truth + 1)
    return np.stack([-margin / 2, margin / 2], axis=1), labels


def error_of(calibration, logits, labels):
    return calibration_error(calibration.calibrated(logits), labels, np.ones((1, len(labels))))[0]


def test_overconfident_logits_of_balanced_training_come_out_calibrated():
    logits, labels = overconfident()
    fitted = fit_temperature(logits, labels)
    assert fitted.temperature == pytest.approx(3, rel=0.1)
    assert fitted.bias == pytest.approx(-1, abs=0.15)
    unseen, their_labels = overconfident(seed=1)
    assert error_of(fitted, unseen, their_labels) < 0.03 < error_of(Calibration(), unseen, their_labels)


def test_the_order_of_the_scores_never_changes_and_they_are_float32():
    logits, labels = overconfident(300)
    scores = fit_temperature(logits, labels).calibrated(logits)
    assert scores.dtype == np.float32
    assert (np.diff(scores[np.argsort(logits[:, 1] - logits[:, 0])]) >= 0).all()


def test_few_images_that_separate_perfectly_do_not_become_certainties():
    logits = np.array([[5.0, -5.0]] * 4 + [[-5.0, 5.0]] * 4)
    scores = fit_temperature(logits, np.array([0] * 4 + [1] * 4)).calibrated(logits)
    assert scores.max() < 0.9 and scores.min() > 0.1


def test_one_class_only_leaves_the_logits_as_they_are():
    assert fit_temperature(np.zeros((3, 2)), np.ones(3)) == Calibration()


def test_a_calibration_survives_its_json():
    calibration = Calibration(temperature=1.7, bias=-0.3)
    assert Calibration.from_json(calibration.to_json()) == calibration


def test_logits_that_are_not_finite_stop_the_run():
    with pytest.raises(TrainingDiverged):
        fit_temperature(np.array([[0.0, np.inf], [0.0, 1.0]]), np.array([0, 1]))


def test_the_bins_hold_every_score_and_give_the_calibration_error():
    scores, labels = np.array([0.0, 0.05, 0.55, 1.0]), np.array([0, 1, 1, 1])
    bins = reliability(scores, labels)
    assert sum(row["n"] for row in bins) == 4
    by_hand = sum(row["n"] * abs(row["mean_score"] - row["share_positive"]) for row in bins) / 4
    assert calibration_error(scores, labels, np.ones((1, 4)))[0] == pytest.approx(by_hand)


def test_a_weighted_calibration_error_is_that_of_the_images_repeated_and_errors_of_two_bins_do_not_cancel():
    scores, labels = np.array([0.1, 0.15, 0.9]), np.array([1, 0, 0])
    assert calibration_error(scores[[0, 2]], labels[[0, 2]], np.ones((1, 2)))[0] == pytest.approx(0.9)
    counts = np.array([3, 1, 4])
    repeated = [np.repeat(part, counts) for part in (scores, labels)]
    weighted, plain = calibration_error(scores, labels, counts[None]), calibration_error(*repeated, np.ones((1, 8)))
    assert weighted[0] == pytest.approx(plain[0])
