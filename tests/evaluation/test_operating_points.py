import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fracture_ml.core.records import OperatingPoint
from fracture_ml.evaluation.operating_points import choose

# Few distinct scores, so that ties are the rule.
images = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.5, 0.7, 1.0]), st.integers(0, 1)), min_size=1, max_size=40
)
targets = st.sampled_from([0.5, 0.6, 0.8, 0.9, 0.95, 0.99])


def every_threshold(scores):
    """Each place, as float32, where an image changes sides."""
    scores = np.unique(scores.astype(np.float32))
    return np.concatenate([scores, np.nextafter(scores, np.float32(2))])


@given(images, targets, targets)
def test_the_thresholds_are_those_that_trying_all_of_them_finds(rows, target_sensitivity, target_specificity):
    scores = np.array([score for score, _ in rows], dtype=np.float32)
    labels = np.array([label for _, label in rows])
    points = choose(scores, labels, target_sensitivity, target_specificity)
    positives, negatives = scores[labels == 1], scores[labels == 0]
    if len(positives):
        meets = [t for t in every_threshold(scores) if (positives >= t).mean() >= target_sensitivity]
        assert points.t_sensitivity == min(max(meets), points.t_specificity)
    if len(negatives):
        meets = [t for t in every_threshold(scores) if (negatives < t).mean() >= target_specificity]
        assert points.t_specificity == min(meets)


def test_five_positives_are_all_flagged_at_ninety_five_percent():
    points = choose(np.array([0.2, 0.4, 0.6, 0.8, 0.9, 0.1, 0.3]), np.array([1, 1, 1, 1, 1, 0, 0]), 0.95, 0.95)
    assert points.t_sensitivity == np.float32(0.2)
    assert np.float32(0.3) < points.t_specificity < 0.31


def test_where_a_good_model_lets_the_points_cross_what_is_urgent_is_suspicious_too():
    scores, labels = np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 0, 1, 1])
    points = choose(scores, labels, 0.5, 0.5)
    flagged = [score >= points.t_sensitivity for score in scores]
    assert [points.place(score) != OperatingPoint.BELOW for score in scores] == flagged
    assert [points.place(score) == OperatingPoint.URGENT for score in scores] == [False, True, True, True]


def test_without_a_positive_everything_is_at_least_suspicious():
    points = choose(np.array([0.2, 0.4]), np.array([0, 0]), 0.95, 0.95)
    assert points.place(0.0) == OperatingPoint.SUSPICIOUS


def test_without_a_negative_nothing_is_urgent():
    points = choose(np.array([0.2, 1.0]), np.array([1, 1]), 0.95, 0.95)
    assert points.place(1.0) == OperatingPoint.SUSPICIOUS
    assert points.place(0.1) == OperatingPoint.BELOW
