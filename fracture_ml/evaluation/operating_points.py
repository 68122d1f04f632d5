"""The two thresholds, chosen on validation data and reported on test."""

import numpy as np

from fracture_ml.core.records import OperatingPoints


def choose(
    scores: np.ndarray, labels: np.ndarray, target_sensitivity: float, target_specificity: float
) -> OperatingPoints:
    """Choose both thresholds on calibrated validation scores. An image is flagged where score >= threshold.

    `t_specificity` is the lowest threshold whose specificity is at least its target: the next number above the score of
    one of the negatives. `t_sensitivity` is the highest whose sensitivity is: the score of one of the positives; and
    where that would be above the other one, which a good model brings about, it is the other: what is urgent is
    suspicious too. Images with equal scores fall on the same side. Scores are taken as float32, as they are stored, so
    that a stored score is never on the other side of a threshold than the one it was chosen with.

    With few images the targets are still met, on these images, by stepping over them: five positives and 0.95 flag all
    five. Without a positive, `t_sensitivity` is 0 (everything is suspicious); without a negative, `t_specificity` is
    above 1 (nothing is urgent by that point): the side on which nothing is missed and nobody is alarmed for nothing.

    Args:    scores: float, (N,), 0 to 1. labels: 0 or 1, (N,).
    Raises:  ValueError: a score is NaN or outside 0 to 1.
    """
    scores = np.asarray(scores, dtype=np.float32)
    positive = np.asarray(labels).astype(bool)
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError("scores: must be calibrated, from 0 to 1")
    positives = np.sort(scores[positive])[::-1]
    negatives = np.sort(scores[~positive])
    t_sensitivity = np.float32(0)
    if len(positives):
        t_sensitivity = positives[_fewest(target_sensitivity, len(positives)) - 1]
    passed = negatives[_fewest(target_specificity, len(negatives)) - 1] if len(negatives) else np.float32(1)
    t_specificity = np.nextafter(passed, np.float32(np.inf))
    return OperatingPoints(
        t_sensitivity=float(min(t_sensitivity, t_specificity)),
        t_specificity=float(t_specificity),
        target_sensitivity=target_sensitivity,
        target_specificity=target_specificity,
    )


def _fewest(target: float, n: int) -> int:
    """The smallest k, 1 to n, with k / n >= target."""
    return max(1, int(np.searchsorted(np.arange(n + 1) / n, target)))
