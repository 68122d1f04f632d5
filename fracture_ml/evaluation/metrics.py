"""What a version achieves on the test split: each figure with its 95 % interval, resampled by group."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fracture_ml.core.records import OperatingPoints
from fracture_ml.evaluation.calibration import calibration_error

RESAMPLES = 1000
_NUMBERS_AT_ONCE = 4_000_000  # weights held in memory: 32 MB
_PROPORTIONS = {  # the images that a proportion is a share of
    "accuracy": lambda positive, flagged: np.ones_like(positive),
    "sensitivity": lambda positive, flagged: positive,
    "specificity": lambda positive, flagged: ~positive,
    "ppv": lambda positive, flagged: flagged,
    "npv": lambda positive, flagged: ~flagged,
}

Interval = dict[str, float | None]  # "value", "low", "high"


def evaluate(
    scores: np.ndarray,
    labels: np.ndarray,
    groups: Sequence[str],
    points: OperatingPoints,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    prevalence: float | None = None,
) -> dict[str, Any]:
    """Every figure of a model's evaluation, as JSON.

    Args:    scores: calibrated, (N,), 0 to 1. labels: 0 or 1, (N,). groups: (N,), patient, study or cluster.
             prevalence: of fractures at the site, 0 to 1; None: the data's own.
    Returns: "auroc", "auprc", "brier", "ece", and for each of "at_t_sensitivity", "at_t_specificity" and "at_half"
             (calibrated score 0.5): "accuracy", "sensitivity", "specificity", "ppv", "npv", "f1", "kappa",
             "ppv_at_site_prevalence", "alerts_per_100_studies" (each evaluated image counts as a study), "threshold"
             and "confusion". Figures are {"value", "low", "high"}; what is undefined (one class only, nothing
             flagged) is None, never NaN.
    Raises:  ValueError: no scores, or a score outside 0 to 1.
    """
    scores = np.asarray(scores, dtype=np.float64)
    labels = np.asarray(labels).astype(np.int64)
    if len(scores) == 0 or not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError("scores: at least one, and all from 0 to 1")
    own = float(labels.mean())
    site = own if prevalence is None else prevalence
    thresholds = {"at_t_sensitivity": points.t_sensitivity, "at_t_specificity": points.t_specificity, "at_half": 0.5}

    def figures(weights: np.ndarray) -> dict[str, np.ndarray]:
        found = {
            "auroc": weighted_auroc(scores, labels, weights),
            "auprc": weighted_auprc(scores, labels, weights),
            "brier": (weights @ (scores - labels) ** 2) / weights.sum(axis=1),
            "ece": calibration_error(scores, labels, weights),
        }
        for name, threshold in thresholds.items():
            at_point = _figures_of(*_confusion(scores >= threshold, labels, weights), site)
            found.update({f"{name}.{figure}": value for figure, value in at_point.items()})
        return found

    intervals = _with_intervals(figures, groups, resamples, seed)
    result: dict[str, Any] = {
        "n": len(scores),
        "positives": int(labels.sum()),
        "groups": len(set(groups)),
        "prevalence": own,
        "site_prevalence": site,
        "resamples": resamples,
        **{name: intervals[name] for name in ("auroc", "auprc", "brier", "ece")},
    }
    rarer = labels == (1 if own <= 0.5 else 0)
    result["auroc"] = _open_end(result["auroc"], groups, rarer)
    result["auprc"] = _open_end(result["auprc"], groups, labels == 1)
    for name, threshold in thresholds.items():
        flagged = scores >= threshold
        tp, fp, fn, tn = (int(count[0]) for count in _confusion(flagged, labels, np.ones((1, len(scores)))))
        at_point = {key.split(".")[1]: value for key, value in intervals.items() if key.startswith(f"{name}.")}
        for figure, of in _PROPORTIONS.items():
            at_point[figure] = _open_end(at_point[figure], groups, of(labels == 1, flagged))
        _open_derived(at_point, tp + fn, fp + tn, site)
        result[name] = {
            "threshold": threshold,
            "confusion": {"tp": tp, "fp": fp, "fn": fn, "tn": tn},
            **at_point,
        }
    return result


def subgroup_table(
    scores: np.ndarray,
    labels: np.ndarray,
    subgroups: Sequence[dict[str, str]],
    points: OperatingPoints,
    *,
    groups: Sequence[str] | None = None,
    min_n: int = 20,
    min_of_class: int = 20,
    resamples: int = 200,
    seed: int = 0,
) -> dict[str, Any]:
    """AUROC, and sensitivity and specificity at t_sensitivity, of each value of each subgroup.

    Args:    subgroups: (N,), for example {"body_part": "hand", "hardware": "yes"}.
             groups: (N,), resampled whole for the intervals; None: each image is its own group.
             min_n: values with fewer images are listed with n, and without figures.
             min_of_class: with fewer positives or fewer negatives a row cannot be the worst: chance would name it.
    Returns: "rows", and "worst_gap": the row whose AUROC lies furthest below that of all images, or None.
    """
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels).astype(np.int64)
    group_of = np.arange(len(scores)).astype(str) if groups is None else np.asarray(groups)
    rows: list[dict[str, Any]] = []
    for kind, value in sorted({item for of_image in subgroups for item in of_image.items()}):
        inside = np.array([of_image.get(kind) == value for of_image in subgroups])
        row = {"subgroup": kind, "value": value, "n": int(inside.sum()), "positives": int(labels[inside].sum())}
        if row["n"] < min_n:
            rows.append({**row, "auroc": None, "sensitivity": None, "specificity": None})
            continue
        of_scores, of_labels, flagged = scores[inside], labels[inside], scores[inside] >= points.t_sensitivity

        def figures(weights: np.ndarray, s=of_scores, y=of_labels, flagged=flagged) -> dict[str, np.ndarray]:
            tp, fp, fn, tn = _confusion(flagged, y, weights)
            return {
                "auroc": weighted_auroc(s, y, weights),
                "sensitivity": _share(tp, tp + fn),
                "specificity": _share(tn, tn + fp),
            }

        row |= _with_intervals(figures, group_of[inside], resamples, seed)
        rarer = of_labels == (1 if of_labels.mean() <= 0.5 else 0)
        row["auroc"] = _open_end(row["auroc"], group_of[inside], rarer)
        for figure in ("sensitivity", "specificity"):
            row[figure] = _open_end(row[figure], group_of[inside], _PROPORTIONS[figure](of_labels == 1, flagged))
        rows.append(row)
    overall = auroc(scores, labels)
    measured = [row for row in rows if min(row["positives"], row["n"] - row["positives"]) >= max(1, min_of_class)]
    worst = min(measured, key=lambda row: row["auroc"]["value"], default=None)
    return {
        "min_n": min_n,
        "min_of_class": min_of_class,
        "rows": rows,
        "worst_gap": worst
        and {
            "subgroup": worst["subgroup"],
            "value": worst["value"],
            "n": worst["n"],
            "auroc": worst["auroc"]["value"],
            "overall_auroc": overall,
            "gap": overall - worst["auroc"]["value"],
        },
    }


def auroc(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """The area under the ROC curve of scores (N,); None where one class is missing."""
    return _or_none(weighted_auroc(scores, labels, np.ones((1, len(scores))))[0])


def weighted_auroc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """P(a positive's score is above a negative's), ties counted half, in each resample.

    Args:    scores, labels: (N,). weights: (R, N), how often each image counts.
    Returns: float64, (R,); NaN where a class is missing.
    """
    positives, negatives = _by_score(scores, labels, weights)  # (R, U), from the lowest score
    below = np.cumsum(negatives, axis=1) - negatives / 2
    return _share((positives * below).sum(axis=1), positives.sum(axis=1) * negatives.sum(axis=1))


def weighted_auprc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Average precision in each resample: the precision at each distinct score, weighted by the recall it adds.

    Shapes as in `weighted_auroc`; NaN where there is no positive.
    """
    positives, negatives = (part[:, ::-1] for part in _by_score(scores, labels, weights))  # from the highest score
    found = np.cumsum(positives, axis=1)
    flagged = found + np.cumsum(negatives, axis=1)
    precision = np.divide(found, flagged, out=np.zeros_like(found), where=flagged > 0)
    return _share((positives * precision).sum(axis=1), positives.sum(axis=1))


def resampled_weights(groups: Sequence[str], resamples: int, seed: int) -> np.ndarray:
    """How often each image counts in each resample: whole groups are drawn with replacement. float64, (R, N)."""
    _, group_of = np.unique(np.asarray(groups), return_inverse=True)
    n = int(group_of.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)  # (R, groups)
    return drawn[:, group_of].astype(np.float64)


def interval_of(value: float, resampled: np.ndarray) -> Interval:
    """The percentile interval (95 %) of resampled values (R,); NaN among them are resamples without a class."""
    defined = resampled[~np.isnan(resampled)]
    if np.isnan(value) or len(defined) == 0:
        return {"value": _or_none(value), "low": None, "high": None}
    low, high = np.percentile(defined, [2.5, 97.5])
    return {"value": float(value), "low": float(low), "high": float(high)}


def _with_intervals(
    figures: Callable[[np.ndarray], dict[str, np.ndarray]], groups: Sequence[str], resamples: int, seed: int
) -> dict[str, Interval]:
    values = figures(np.ones((1, len(groups))))
    step = max(1, _NUMBERS_AT_ONCE // len(groups))
    parts = [
        figures(resampled_weights(groups, min(step, resamples - start), seed + start))
        for start in range(0, resamples, step)
    ]
    return {
        name: interval_of(value[0], _centred(name, value[0], np.concatenate([part[name] for part in parts])))
        for name, value in values.items()
    }


def _centred(name: str, value: float, resampled: np.ndarray) -> np.ndarray:
    """The calibration error cannot be negative, so that resampling adds to it whatever it is: its spread stands about
    the measured value then, and ends at 0. All other figures are what the resamples say."""
    if name != "ece":
        return resampled
    return np.maximum(0.0, resampled - np.nanmean(resampled) + value)


def _open_end(interval: Interval, groups: Sequence[str], of: np.ndarray) -> Interval:
    """Where every image of a proportion agrees, resampling knows no other outcome and would claim certainty.

    The far end is then Clopper and Pearson's (1934) exact bound, 0.025 ** (1 / n), with the groups as n. Two classes
    that do not overlap are judged so by the images of the rarer one.
    """
    if interval["value"] not in (0.0, 1.0):
        return interval
    bound = 0.025 ** (1 / len(set(np.asarray(groups)[of])))
    return {**interval, "low": bound} if interval["value"] == 1.0 else {**interval, "high": 1 - bound}


def _open_derived(at_point: dict[str, Any], positives: int, negatives: int, site: float) -> None:
    """What follows from sensitivity and specificity is no more certain than they are: where one of them has an open
    end, its figures reach to what they would be there."""
    for name in ("sensitivity", "specificity"):
        own = at_point[name]
        if own["value"] not in (0.0, 1.0):
            continue
        assumed = {other: at_point[other]["value"] for other in ("sensitivity", "specificity")}
        assumed[name] = own["low"] if own["value"] == 1.0 else own["high"]
        if None in assumed.values():
            continue
        tp, tn = assumed["sensitivity"] * positives, assumed["specificity"] * negatives
        there = _figures_of(*(np.array([count]) for count in (tp, negatives - tn, positives - tp, tn)), site)
        for figure in ("f1", "kappa", "ppv_at_site_prevalence", "alerts_per_100_studies"):
            interval, value = at_point[figure], _or_none(there[figure][0])
            if value is not None and interval["low"] is not None:
                at_point[figure] = {
                    **interval,
                    "low": min(interval["low"], value),
                    "high": max(interval["high"], value),
                }


def _by_score(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The weight of the positives and of the negatives at each distinct score, from the lowest: two of (R, U)."""
    order = np.argsort(scores, kind="stable")
    first = np.flatnonzero(np.r_[True, np.diff(np.asarray(scores)[order]) > 0])
    sorted_weights, positive = weights[:, order], np.asarray(labels)[order] == 1
    return (
        np.add.reduceat(sorted_weights * positive, first, axis=1),
        np.add.reduceat(sorted_weights * ~positive, first, axis=1),
    )


def _confusion(flagged: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, ...]:
    """True positives, false positives, false negatives and true negatives of each resample: four of (R,)."""
    positive = labels == 1
    cells = np.stack([flagged & positive, flagged & ~positive, ~flagged & positive, ~flagged & ~positive], axis=1)
    return tuple((weights @ cells.astype(np.float64)).T)


def _figures_of(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray, tn: np.ndarray, site: float) -> dict[str, np.ndarray]:
    n = tp + fp + fn + tn
    sensitivity, specificity = _share(tp, tp + fn), _share(tn, tn + fp)
    right = _share(tp + tn, n)
    by_chance = ((tp + fp) * (tp + fn) + (fn + tn) * (fp + tn)) / n**2
    alerts = sensitivity * site + (1 - specificity) * (1 - site)
    return {
        "accuracy": right,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "ppv": _share(tp, tp + fp),
        "npv": _share(tn, tn + fn),
        "f1": _share(2 * tp, 2 * tp + fp + fn),
        "kappa": _share(right - by_chance, 1 - by_chance),
        "ppv_at_site_prevalence": _share(sensitivity * site, alerts),
        "alerts_per_100_studies": 100 * alerts,
    }


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full_like(np.asarray(part, dtype=np.float64), np.nan), where=whole > 0)


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def figure_in_words(value: float | None, digits: int = 3) -> str:
    return "undefined" if value is None else f"{value:.{digits}f}"


def interval_in_words(interval: Interval, digits: int = 3) -> str:
    """The value, with its 95 % interval in brackets where there is one."""
    value, low, high = (interval[name] for name in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return figure_in_words(value, digits)
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
