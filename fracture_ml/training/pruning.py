"""When a trial is not expected to win any more: arithmetic on curves and fold scores, no optuna."""

import math
from collections.abc import Sequence

_ERRORS_INSIDE_A_FOLD = 2.0  # its curve may still cross the other one
_ERRORS_OVER_FOLDS = 0.25
_FIRST_LOOK = 1 / 3  # of a fold's epochs


def standard_error(metric: str, value: float, positives: int, negatives: int) -> float:
    """Of a validation metric over so many images: how far it would move with other images of the same kind.

    accuracy: binomial. balanced_accuracy: half the root of the two classes' binomial variances, both classes taken to
    be as accurate as their mean. auroc: Hanley and McNeil (1982), equation 1. Where a class is missing, accuracy
    stands in for the other two, as it does for their values.
    """
    if metric == "accuracy" or min(positives, negatives) == 0:
        return math.sqrt(value * (1 - value) / (positives + negatives))
    if metric == "balanced_accuracy":
        return math.sqrt(value * (1 - value) * (1 / positives + 1 / negatives)) / 2
    q1, q2 = value / (2 - value), 2 * value**2 / (1 + value)
    variance = value * (1 - value) + (positives - 1) * (q1 - value**2) + (negatives - 1) * (q2 - value**2)
    return math.sqrt(max(variance, 0.0) / (positives * negatives))


def is_left_behind(
    metric: str,
    own: Sequence[float],
    best: Sequence[float],
    *,
    epochs: int,
    warmup_epochs: int,
    positives: int,
    negatives: int,
) -> bool:
    """Whether a fold has so far done worse than the best trial's same fold had by this epoch, beyond chance.

    Compared are the best epochs so far, from a third of the epochs on and never before the first one after the
    warm-up. Beyond chance: by more than two standard errors of a difference between two sets of images, both as good
    as their mean. The two trials saw the same images, so that the true error is smaller, and the bound a safe one.

    What it risks: two curves that cross later. A trial that learns slowly and would have overtaken is lost, as where a
    rate that falls late in the fold gives most of the gain; tune with as many epochs as such a schedule needs.

    Args:    own, best: the metric after each epoch; `best` may be longer, and where it is shorter, nothing is said.
    """
    seen = len(own)
    if seen > len(best) or seen < max(math.ceil(epochs * _FIRST_LOOK), warmup_epochs + 1):
        return False
    mine, theirs = max(own), max(best[:seen])
    error = math.sqrt(2) * standard_error(metric, (mine + theirs) / 2, positives, negatives)
    return theirs - mine > _ERRORS_INSIDE_A_FOLD * error


def is_behind(metric: str, own: Sequence[float], best: Sequence[float], *, positives: int, negatives: int) -> bool:
    """Whether the mean of the folds that ended is a quarter of a standard error below the best trial's same folds.

    That is no proof that the trial is worse, and needs none: the question is which trials are worth four more folds.
    One that is as good as the best may go at no loss; one that is better by a standard error of the mean over five
    folds is stopped after its first fold in about two of ten cases, and one that is better by two in one of ten. Over
    drawn studies of 18 recipes, two thirds of them worse or all of them spread (tests/training/test_pruning.py), the
    winner is within one standard error of the true best in more than nine of ten, for two fifths of the folds.

    Args:    own, best: the scores of the folds that ended, fold by fold. positives, negatives: images in those folds.
    """
    mine, theirs = sum(own) / len(own), sum(best) / len(best)
    error = math.sqrt(2) * standard_error(metric, (mine + theirs) / 2, positives, negatives)
    return theirs - mine > _ERRORS_OVER_FOLDS * error
