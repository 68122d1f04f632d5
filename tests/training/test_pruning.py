"""When a fold is left behind: standard errors as in the books, and no verdict on noise."""

import numpy as np
import pytest

from fracture_ml.evaluation.metrics import auroc
from fracture_ml.training.pruning import is_behind, is_left_behind, standard_error


def left_behind(own: list[float], best: list[float], *, metric: str = "auroc", warmup_epochs: int = 0) -> bool:
    return is_left_behind(
        metric, own, best, epochs=6, warmup_epochs=warmup_epochs, positives=50, negatives=50
    )  # fmt: skip


def test_the_standard_errors_are_those_of_drawn_samples():
    rng = np.random.default_rng(0)
    shift = 1.2
    drawn = []
    for _ in range(400):
        scores = np.r_[rng.normal(shift, 1, 30), rng.normal(0, 1, 70)]
        drawn.append(auroc(scores, np.r_[np.ones(30, int), np.zeros(70, int)]))
    assert standard_error("auroc", float(np.mean(drawn)), 30, 70) == pytest.approx(np.std(drawn), rel=0.15)
    assert standard_error("accuracy", 0.8, 30, 70) == pytest.approx(0.04)
    assert standard_error("balanced_accuracy", 0.8, 50, 50) == pytest.approx(0.04)
    assert standard_error("auroc", 0.8, 0, 100) == pytest.approx(0.04)
    assert standard_error("auroc", 1.0, 30, 70) == 0.0


def test_a_fold_far_behind_stops_at_a_third_of_its_epochs_and_not_before():
    best = [0.6, 0.85, 0.9, 0.9, 0.9, 0.9]
    assert not left_behind([0.5], best)
    assert left_behind([0.5, 0.51], best)
    assert not left_behind([0.5, 0.51], best, warmup_epochs=2)
    assert left_behind([0.5, 0.51, 0.52], best, warmup_epochs=2)


def test_a_fold_within_chance_goes_on_and_the_best_epoch_so_far_counts():
    assert not left_behind([0.5, 0.75], [0.6, 0.85])
    assert not left_behind([0.84, 0.3], [0.6, 0.85])
    assert not left_behind([0.2, 0.2], [0.6])
    assert not left_behind([0.2, 0.2], [])
    assert left_behind([0.6, 0.6], [0.7, 0.8], metric="accuracy")


def test_two_trials_that_are_equally_good_are_seldom_told_apart():
    rng = np.random.default_rng(1)
    labels = np.r_[np.ones(50, int), np.zeros(50, int)]
    values = [auroc(np.r_[rng.normal(1, 1, 50), rng.normal(0, 1, 50)], labels) for _ in range(600)]
    stopped = [left_behind([mine, mine], [best, best]) for mine, best in zip(values[::2], values[1::2], strict=True)]
    assert np.mean(stopped) < 0.05


def winner_of(scores: np.ndarray) -> tuple[int, int]:
    """The recipe that a study of these fold scores, (recipes, folds), ends with, and how many folds it took."""
    best, taken = None, 0
    for number, of_folds in enumerate(scores):
        for fold in range(1, len(of_folds) + 1):
            taken += 1
            images = {"positives": 24 * fold, "negatives": 24 * fold}
            if best is not None and is_behind("auroc", of_folds[:fold], scores[best][:fold], **images):
                break
        else:
            if best is None or of_folds.mean() > scores[best].mean():
                best = number
    return best, taken


@pytest.mark.parametrize("kind", ["two thirds are worse", "spread"])
def test_a_pruned_study_finds_a_recipe_within_a_standard_error_of_the_best_for_two_fifths_of_the_folds(kind):
    rng = np.random.default_rng(0)
    within, taken = [], []
    for _ in range(200):
        true = rng.permutation(np.r_[np.zeros(6), np.full(12, -0.15)]) if kind != "spread" else rng.normal(0, 0.06, 18)
        true[0] = max(true[0], np.median(true))  # a study begins with a recipe that did well before
        scores = 0.75 + true[:, None] + rng.normal(0, 0.05, 5) + rng.normal(0, 0.06, (18, 5))
        winner, folds = winner_of(scores)
        within.append(scores[winner].mean() >= scores.mean(axis=1).max() - 0.08 / np.sqrt(5))
        taken.append(folds / scores.size)
    assert np.mean(within) > 0.9
    assert np.mean(taken) < 0.4
