import json
from dataclasses import replace

import numpy as np
import pytest

from fracture_ml.core.errors import InvalidRecipe
from fracture_ml.core.recipe import PromotionRule
from fracture_ml.core.records import EvaluationScore, OperatingPoints
from fracture_ml.evaluation.gate import judge

POINTS = OperatingPoints(t_sensitivity=0.25, t_specificity=0.7, target_sensitivity=0.95, target_specificity=0.95)


def scores_of_a_model(quality=3.0, n=400, seed=0, first=0, blind=lambda part: False):
    """Test scores of a model; `quality`: how far apart the classes lie. The same radiographs whatever the quality."""
    generator = np.random.default_rng(seed)
    labels = (generator.random(n) < 0.3).astype(int)
    noise = generator.normal(size=n)
    rows = []
    for index, (label, shift) in enumerate(zip(labels, noise, strict=True)):
        part = "hip" if index % 3 == 0 else "hand"
        margin = shift + (0 if blind(part) else quality) * (label - 0.5) - 0.4
        rows.append(
            EvaluationScore(
                radiograph_id=first + index,
                group_key=f"patient:{(first + index) // 2}",
                label=int(label),
                score=float(1 / (1 + np.exp(-margin))),
                subgroups={"body_part": part},
            )
        )
    return rows


def verdict_of(challenger, champion, *, rule=None, bundle_verified=True, leakage_clean=True, points=POINTS):
    return judge(
        challenger,
        champion,
        challenger_points=points,
        champion_points=POINTS if champion is not None else None,
        rule=rule or PromotionRule(),
        bundle_verified=bundle_verified,
        leakage_clean=leakage_clean,
    )


def failed(verdict):
    return [name for name, check in verdict.measures["checks"].items() if not check["passed"]]


def test_a_challenger_as_good_as_the_champion_passes_with_a_sentence_per_check():
    verdict = verdict_of(scores_of_a_model(), scores_of_a_model())
    assert verdict.passed
    assert len(verdict.reasons) == len(verdict.measures["checks"])
    assert verdict.measures["common"] == 400
    json.dumps(verdict.measures, allow_nan=False)


def test_a_worse_challenger_fails_on_sensitivity_and_auroc_and_the_failures_come_first():
    verdict = verdict_of(scores_of_a_model(quality=1.0), scores_of_a_model())
    assert not verdict.passed
    assert {"sensitivity", "auroc"} <= set(failed(verdict))
    assert verdict.reasons[0].startswith("Sensitivity")
    assert "95 % interval" in verdict.reasons[0]


def test_sensitivity_bought_with_a_lower_threshold_shows_its_price():
    cheap = OperatingPoints(t_sensitivity=0.0, t_specificity=0.7, target_sensitivity=0.95, target_specificity=0.95)
    check = verdict_of(scores_of_a_model(), scores_of_a_model(), points=cheap).measures["checks"]["sensitivity"]
    assert check["challenger"] == 1.0
    assert check["challenger_specificity"] == 0.0 < check["champion_specificity"]
    negatives = [row.score for row in scores_of_a_model() if not row.label]
    assert check["champion_specificity"] == pytest.approx(np.mean(np.array(negatives) < POINTS.t_sensitivity))
    same = verdict_of(scores_of_a_model(), scores_of_a_model()).measures["checks"]["sensitivity"]
    assert same["challenger_specificity"] == same["champion_specificity"] == check["champion_specificity"]


def test_a_subgroup_that_the_challenger_is_blind_in_fails_it():
    assert "subgroup:body_part=hip" in failed(
        verdict_of(scores_of_a_model(blind=lambda part: part == "hip"), scores_of_a_model())
    )


def test_a_subgroup_with_too_few_positives_is_not_judged():
    rule = PromotionRule(subgroup_min_positives=400)
    assert not any(
        name.startswith("subgroup")
        for name in verdict_of(scores_of_a_model(), scores_of_a_model(), rule=rule).measures["checks"]
    )


def test_the_first_model_is_judged_on_the_floor_alone():
    assert verdict_of(scores_of_a_model(), None).passed
    verdict = verdict_of(scores_of_a_model(quality=0.1), None)
    assert "floor" in failed(verdict)
    assert "no champion" in verdict.reasons[-1]


def test_models_without_a_common_test_radiograph_are_not_compared_and_that_is_said():
    verdict = verdict_of(scores_of_a_model(), scores_of_a_model(first=10_000))
    assert verdict.passed and verdict.measures["common"] == 0
    assert "No test radiograph is common" in verdict.reasons[-1]


def test_only_the_common_radiographs_are_compared():
    assert verdict_of(scores_of_a_model(), scores_of_a_model()[100:]).measures["common"] == 300


@pytest.mark.parametrize("broken", ["bundle_verified", "leakage_clean"])
def test_a_broken_bundle_or_a_leak_fails_the_best_model(broken):
    assert not verdict_of(scores_of_a_model(), scores_of_a_model(quality=0.5), **{broken: False}).passed


def test_one_class_only_in_the_test_split_fails_with_a_sentence():
    negatives = [row for row in scores_of_a_model() if row.label == 0]
    verdict = verdict_of(negatives, negatives)
    assert failed(verdict)[0] == "floor"
    assert "both classes are needed" in verdict.reasons[0]


def test_no_test_score_at_all_fails():
    assert not verdict_of([], None).passed


def test_a_tie_of_models_that_miss_different_images_passes_unless_proof_is_asked():
    def missing(*missed):
        return [
            EvaluationScore(
                radiograph_id=n, group_key=str(n), label=int(n < 40), score=float(n < 40 and n not in missed)
            )
            for n in range(80)
        ]

    assert verdict_of(missing(0, 1, 2), missing(3, 4, 5)).passed
    proof = PromotionRule(required_confidence=0.95)
    assert "sensitivity" in failed(verdict_of(missing(0, 1, 2), missing(3, 4, 5), rule=proof))


def test_the_same_scores_give_the_same_verdict():
    assert verdict_of(scores_of_a_model(2.5), scores_of_a_model()) == verdict_of(
        scores_of_a_model(2.5), scores_of_a_model()
    )


def test_a_rule_outside_its_bounds_is_refused():
    with pytest.raises(InvalidRecipe):
        PromotionRule(required_confidence=1.0)


def test_scores_that_promise_too_much_fail_on_their_calibration_alone():
    inflated = [replace(row, score=0.5 + row.score / 2) for row in scores_of_a_model()]
    verdict = verdict_of(inflated, None)
    assert failed(verdict) == ["calibration"] and not verdict.passed
    assert verdict_of(inflated, None, rule=PromotionRule(max_ece=0.5)).passed


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        ("sensitivity", "sensitivity_margin"),
        ("auroc", "max_auroc_drop"),
        ("subgroup:body_part=hip", "max_subgroup_auroc_drop"),
    ],
)
def test_each_drop_is_held_against_its_own_bound(name, bound):
    challenger, champion = scores_of_a_model(quality=1.0), scores_of_a_model()
    assert name in failed(verdict_of(challenger, champion))
    of_all_but_one = failed(verdict_of(challenger, champion, rule=PromotionRule(**{bound: 1.0})))
    assert name not in of_all_but_one
    assert {"sensitivity", "auroc", "subgroup:body_part=hip"} - {name} <= set(of_all_but_one)


def test_a_subgroup_alone_fails_the_challenger():
    rule = PromotionRule(sensitivity_margin=1.0, max_auroc_drop=1.0, max_ece=1.0)
    verdict = verdict_of(scores_of_a_model(blind=lambda part: part == "hip"), scores_of_a_model(), rule=rule)
    assert failed(verdict) == ["subgroup:body_part=hip"] and not verdict.passed


def test_a_subgroup_of_one_class_is_not_judged():
    rows = [replace(row, subgroups={"hardware": "yes" if row.label else "no"}) for row in scores_of_a_model()]
    verdict = verdict_of(rows, rows)
    assert verdict.passed and not any(name.startswith("subgroup") for name in verdict.measures["checks"])


def test_models_are_paired_by_radiograph_and_not_by_place():
    rows = scores_of_a_model()
    checks = verdict_of(rows[::-1], rows).measures["checks"]
    for name in ("sensitivity", "auroc", "subgroup:body_part=hand"):
        assert checks[name]["challenger"] == checks[name]["champion"]
        assert checks[name]["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_a_patient_of_many_images_is_drawn_whole_or_not_at_all():
    """One patient of ten with a fracture is missed: another draw of patients may well be without them."""
    rows = [
        EvaluationScore(radiograph_id=n, group_key=f"patient:{n // 10}", label=int(n < 100), score=float(n < 100))
        for n in range(200)
    ]
    missing = [replace(row, score=0.0) if row.group_key == "patient:0" else row for row in rows]
    check = verdict_of(missing, rows).measures["checks"]["sensitivity"]
    assert check["difference"]["value"] == pytest.approx(-0.1)
    assert check["share_within_bound"] == pytest.approx((1 - 1 / 20) ** 20, abs=0.05)


def test_a_resample_without_a_positive_says_nothing():
    rows = [
        EvaluationScore(radiograph_id=n, group_key=str(n), label=int(n == 0), score=float(n == 0)) for n in range(4)
    ]
    missing = [replace(row, score=0.0) for row in rows]
    assert verdict_of(missing, rows).measures["checks"]["sensitivity"]["share_within_bound"] == 0.0


def test_a_label_that_changed_since_the_champions_test_holds_for_both_and_that_is_said():
    rows = scores_of_a_model()
    changed = [row.radiograph_id for row in rows if row.label][:5]
    before = [replace(row, label=0) if row.radiograph_id in changed else row for row in rows]
    verdict = verdict_of(rows, before)
    assert verdict.measures["checks"] == verdict_of(rows, rows).measures["checks"]
    assert verdict.reasons[-1].startswith("5 labels changed since the champion's test")
