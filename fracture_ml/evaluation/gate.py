"""May this challenger take the champion's place? Pure: scores and a rule in, a verdict out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fracture_ml.core.recipe import PromotionRule
from fracture_ml.core.records import EvaluationScore, OperatingPoints, Verdict
from fracture_ml.evaluation.calibration import calibration_error
from fracture_ml.evaluation.metrics import auroc, interval_of, resampled_weights, weighted_auroc


@dataclass(frozen=True, kw_only=True)
class _Check:
    name: str
    passed: bool
    sentence: str
    measures: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Pairs:
    """Both models on the radiographs that both were tested on."""

    labels: np.ndarray  # (N,)
    challenger: np.ndarray  # (N,) calibrated scores
    champion: np.ndarray  # (N,)
    weights: np.ndarray  # (R, N), how often each counts in each resample
    subgroups: list[dict[str, str]]  # (N,)
    relabelled: int

    def of(self, inside: np.ndarray) -> "_Pairs":
        return _Pairs(
            labels=self.labels[inside],
            challenger=self.challenger[inside],
            champion=self.champion[inside],
            weights=self.weights[:, inside],
            subgroups=[row for row, kept in zip(self.subgroups, inside, strict=True) if kept],
            relabelled=self.relabelled,
        )


def judge(
    challenger: Sequence[EvaluationScore],
    champion: Sequence[EvaluationScore] | None,
    *,
    challenger_points: OperatingPoints,
    champion_points: OperatingPoints | None,
    rule: PromotionRule,
    bundle_verified: bool,
    leakage_clean: bool,
) -> Verdict:
    """Judge a challenger by its test scores against the champion's, on the radiographs that both were tested on.

    Both models are resampled together, whole groups at a time. A drop (of sensitivity at each model's own
    `t_sensitivity`, of AUROC, of a subgroup's AUROC) passes where at least `rule.required_confidence` of the resamples
    keep it within its bound. 0.95 would be the non-inferiority test of a trial; it is not the default, because on the
    test splits of one hospital it rejects everything: with 90 positives on which two equally good models differ in
    one of ten, the difference has a standard error of 0.033, and showing a margin of 0.02 to 95 % would need that
    to be 0.012, some 700 positives. A gate that only a tie can pass is a gate that people learn to go around. So the
    default asks that the drop be more likely within its bound than not; every sentence carries the interval and the
    share, for the person who approves. A place with a large test split sets 0.95
    (FRACTURE_PROMOTION_CONFIDENCE).

    The floor of AUROC holds with a champion too: else small admitted drops could add up, night after night. A
    subgroup counts with at least `rule.subgroup_min_positives` positives and as many negatives. Where a label has
    changed since the champion's test, the challenger's (newer) one holds for both.

    Args:    challenger, champion: the calibrated scores of the locked test split; champion None: there is none yet.
    Returns: reasons: a sentence per check, failed ones first. measures: JSON, with the rule.
    """
    scores = np.array([row.score for row in challenger], dtype=np.float64)
    labels = np.array([row.label for row in challenger], dtype=np.int64)
    checks = [
        _bundle_check(bundle_verified),
        _leakage_check(leakage_clean),
        _floor_check(scores, labels, rule),
        _calibration_check(scores, labels, rule),
    ]
    notes: list[str] = []
    common = 0
    if champion is None:
        notes.append("There is no champion to compare with: the challenger is judged on the floor alone.")
    else:
        pairs = _pair(challenger, champion, rule)
        common = 0 if pairs is None else len(pairs.labels)
        if pairs is None:
            notes.append(
                "No test radiograph is common to the challenger and the champion: they cannot be compared, and the "
                "challenger is judged on the floor alone."
            )
        elif pairs.labels.min() == pairs.labels.max():
            notes.append(
                f"The {common} test radiographs common to both models hold one class only: they cannot be compared, "
                "and the challenger is judged on the floor alone."
            )
        else:
            checks += _comparison(pairs, challenger_points, champion_points, rule)
            if pairs.relabelled:
                notes.append(f"{pairs.relabelled} labels changed since the champion's test; the new ones hold.")
    checks.sort(key=lambda check: check.passed)
    return Verdict(
        passed=all(check.passed for check in checks),
        reasons=(*(check.sentence for check in checks), *notes),
        measures={
            "rule": rule.to_json(),
            "tested": len(scores),
            "common": common,
            "checks": {check.name: {"passed": check.passed, **check.measures} for check in checks},
        },
    )


def _bundle_check(verified: bool) -> _Check:
    sentence = (
        "The bundle's sha256 matches the registry."
        if verified
        else "The bundle in storage is missing or its sha256 differs from the registry's: it must not be used."
    )
    return _Check(name="bundle", passed=verified, sentence=sentence, measures={})


def _leakage_check(clean: bool) -> _Check:
    sentence = (
        "No group, of a patient, a study or near-duplicates, stands on two sides of the split."
        if clean
        else "A group, of a patient, a study or near-duplicates, stands on two sides: the test figures are void."
    )
    return _Check(name="leakage", passed=clean, sentence=sentence, measures={})


def _floor_check(scores: np.ndarray, labels: np.ndarray, rule: PromotionRule) -> _Check:
    value = auroc(scores, labels) if len(scores) else None
    positives = int(labels.sum())
    sides = f"{positives} positive and {len(labels) - positives} negative test radiographs"
    if value is None:
        sentence = f"AUROC cannot be measured on {sides}: both classes are needed."
    elif value >= rule.min_auroc:
        sentence = f"AUROC {value:.3f} on {sides} reaches the floor of {rule.min_auroc:.2f}."
    else:
        sentence = f"AUROC {value:.3f} on {sides} is below the floor of {rule.min_auroc:.2f}."
    return _Check(
        name="floor",
        passed=value is not None and value >= rule.min_auroc,
        sentence=sentence,
        measures={"auroc": value, "positives": positives, "bound": rule.min_auroc},
    )


def _calibration_check(scores: np.ndarray, labels: np.ndarray, rule: PromotionRule) -> _Check:
    if not len(scores):
        return _Check(
            name="calibration", passed=False, sentence="There is no test score to calibrate against.", measures={}
        )
    error = float(calibration_error(scores, labels, np.ones((1, len(scores))))[0])
    passed = error <= rule.max_ece
    return _Check(
        name="calibration",
        passed=passed,
        sentence=f"The calibration error (ECE) is {error:.3f}; at most {rule.max_ece:.2f} is admitted.",
        measures={"ece": error, "bound": rule.max_ece},
    )


def _pair(
    challenger: Sequence[EvaluationScore], champion: Sequence[EvaluationScore], rule: PromotionRule
) -> _Pairs | None:
    """None where no radiograph is common to both."""
    theirs = {row.radiograph_id: row for row in champion}
    ours = [row for row in challenger if row.radiograph_id in theirs]
    if not ours:
        return None
    return _Pairs(
        labels=np.array([row.label for row in ours], dtype=np.int64),
        challenger=np.array([row.score for row in ours], dtype=np.float64),
        champion=np.array([theirs[row.radiograph_id].score for row in ours], dtype=np.float64),
        weights=resampled_weights([row.group_key for row in ours], rule.resamples, rule.seed),
        subgroups=[row.subgroups for row in ours],
        relabelled=sum(row.label != theirs[row.radiograph_id].label for row in ours),
    )


def _comparison(
    pairs: _Pairs, challenger_points: OperatingPoints, champion_points: OperatingPoints, rule: PromotionRule
) -> list[_Check]:
    return [
        _sensitivity_check(pairs, challenger_points, champion_points, rule),
        _auroc_check(pairs, "auroc", "AUROC", rule.max_auroc_drop, rule),
        *_subgroup_checks(pairs, rule),
    ]


def _sensitivity_check(
    pairs: _Pairs, challenger_points: OperatingPoints, champion_points: OperatingPoints, rule: PromotionRule
) -> _Check:
    positive = pairs.labels == 1
    found_by_challenger = pairs.challenger >= challenger_points.t_sensitivity
    found_by_champion = pairs.champion >= champion_points.t_sensitivity
    surplus = found_by_challenger.astype(np.float64) - found_by_champion
    drawn = pairs.weights[:, positive]
    with np.errstate(invalid="ignore"):  # a resample without a positive: NaN, left out below
        resampled = (drawn @ surplus[positive]) / drawn.sum(axis=1)
    check = _drop_check(
        "sensitivity",
        f"Sensitivity at each model's own t_sensitivity, on {int(positive.sum())} common positives",
        float(found_by_challenger[positive].mean()),
        float(found_by_champion[positive].mean()),
        resampled,
        rule.sensitivity_margin,
        rule,
    )
    # What the sensitivity costs: a threshold can be bought with false alarms.
    specificity = {
        "challenger_specificity": float(1 - found_by_challenger[~positive].mean()),
        "champion_specificity": float(1 - found_by_champion[~positive].mean()),
    }
    price = "specificity there {challenger_specificity:.3f} against {champion_specificity:.3f}".format(**specificity)
    return _Check(
        name=check.name,
        passed=check.passed,
        sentence=f"{check.sentence[:-1]}; {price}.",
        measures=check.measures | specificity,
    )


def _auroc_check(pairs: _Pairs, name: str, what: str, bound: float, rule: PromotionRule) -> _Check:
    resampled = weighted_auroc(pairs.challenger, pairs.labels, pairs.weights) - weighted_auroc(
        pairs.champion, pairs.labels, pairs.weights
    )
    return _drop_check(
        name,
        f"{what}, on {len(pairs.labels)} common radiographs",
        auroc(pairs.challenger, pairs.labels),
        auroc(pairs.champion, pairs.labels),
        resampled,
        bound,
        rule,
    )


def _subgroup_checks(pairs: _Pairs, rule: PromotionRule) -> list[_Check]:
    checks = []
    for kind, value in sorted({item for row in pairs.subgroups for item in row.items()}):
        inside = np.array([row.get(kind) == value for row in pairs.subgroups])
        positives = int(pairs.labels[inside].sum())
        if min(positives, int(inside.sum()) - positives) < max(1, rule.subgroup_min_positives):
            continue
        what = f"AUROC where {kind} is {value}"
        checks.append(
            _auroc_check(pairs.of(inside), f"subgroup:{kind}={value}", what, rule.max_subgroup_auroc_drop, rule)
        )
    return checks


def _drop_check(
    name: str, what: str, ours: float, theirs: float, resampled: np.ndarray, bound: float, rule: PromotionRule
) -> _Check:
    """`resampled`: (R,) differences, challenger minus champion; NaN where a resample lacks a class."""
    defined = resampled[~np.isnan(resampled)]
    if len(defined) == 0:
        return _Check(name=name, passed=False, sentence=f"{what}: too few to be resampled.", measures={})
    within = float(np.mean(defined >= -bound - 1e-12))
    difference = interval_of(ours - theirs, resampled)
    passed = within >= rule.required_confidence
    return _Check(
        name=name,
        passed=passed,
        sentence=(
            f"{what}: {ours:.3f} against the champion's {theirs:.3f}, difference {difference['value']:+.3f} "
            f"(95 % interval {difference['low']:+.3f} to {difference['high']:+.3f}); a drop stays within {bound:.2f} "
            f"in {within:.0%} of the resamples, {rule.required_confidence:.0%} are asked."
        ),
        measures={
            "challenger": ours,
            "champion": theirs,
            "difference": difference,
            "bound": bound,
            "share_within_bound": within,
        },
    )
