from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fracture_ml.core.records import AiPriority, BodyPart, OperatingPoint, Priority, RankedStudy, StudyToRank
from fracture_ml.scoring.priority import RankingRules, effective_priority, rank_study

ARRIVED = datetime(2026, 1, 1, 8, tzinfo=UTC)
URGENT, SUSPICIOUS, BELOW = (
    (1, 0.9, OperatingPoint.URGENT),
    (2, 0.5, OperatingPoint.SUSPICIOUS),
    (3, 0.1, OperatingPoint.BELOW),
)


def rank(asked: StudyToRank, **rules) -> RankedStudy:
    return rank_study(asked, rules=RankingRules(**rules))


def study(*scores, ordered=Priority.ROUTINE, body_parts=(BodyPart.HAND,), unscored=0):
    return StudyToRank(
        study_key="study",
        version=4,
        ordered_priority=ordered,
        body_parts=body_parts,
        arrived_at=ARRIVED,
        images=len(scores) + unscored,
        first_radiograph_id=7,
        scores=scores,
        unscored=unscored,
    )


def minutes_to_read(ranked):
    return (ranked.due_at - ARRIVED) / timedelta(minutes=1)


def test_a_study_has_the_score_of_its_highest_image():
    ranked = rank(study(BELOW, URGENT, SUSPICIOUS))
    assert (ranked.score, ranked.radiograph_id, ranked.ai_priority) == (0.9, 1, AiPriority.URGENT)
    assert minutes_to_read(ranked) == 60


FOUR_IMAGES = [
    (1, 0.1, OperatingPoint.BELOW),
    (2, 0.9, OperatingPoint.URGENT),
    (3, 0.9, OperatingPoint.URGENT),
    (4, 0.5, OperatingPoint.SUSPICIOUS),
]


@given(st.permutations(FOUR_IMAGES))
def test_the_highest_image_decides_wherever_it_stands_and_of_equals_the_first(scores):
    ranked = rank(study(*scores))
    assert (ranked.score, ranked.radiograph_id, ranked.ai_priority) == (0.9, 2, AiPriority.URGENT)


def test_suspicious_stays_within_routine():
    ranked = rank(study(SUSPICIOUS))
    assert ranked.ai_priority == AiPriority.SUSPICIOUS
    assert minutes_to_read(ranked) == 24 * 60


@given(
    st.sampled_from(Priority),
    st.sampled_from(BodyPart),
    st.sampled_from([(), (URGENT,), (SUSPICIOUS,), (BELOW,)]),
    st.booleans(),
)
def test_the_ai_never_lowers_a_priority(ordered, body_part, scores, prioritisation):
    asked = study(*scores, ordered=ordered, body_parts=(body_part,), unscored=1)
    ranked = rank(asked, prioritisation=prioritisation)
    limit = {Priority.STAT: 15, Priority.URGENT: 60, Priority.ROUTINE: 24 * 60}[ordered]
    assert minutes_to_read(ranked) <= limit
    assert ranked.ordered_priority == ordered


@pytest.mark.parametrize(
    ("image", "raised", "minutes"), [(URGENT, True, 15), (SUSPICIOUS, True, 60), (BELOW, False, 24 * 60)]
)
def test_a_region_weight_raises_only_what_the_ai_flagged(image, raised, minutes):
    ranked = rank(study(image, body_parts=(BodyPart.HIP,)))
    assert ranked.raised == raised
    assert minutes_to_read(ranked) == minutes


def test_the_region_weights_are_a_setting():
    assert rank(study(URGENT, body_parts=(BodyPart.HAND,)), region_weights=frozenset({BodyPart.HAND})).raised
    assert not rank(study(URGENT, body_parts=(BodyPart.HIP,)), region_weights=frozenset()).raised


def test_a_further_view_of_another_region_does_not_take_the_weight_away():
    ranked = rank(study(URGENT, body_parts=(BodyPart.HAND, BodyPart.HIP)))
    assert ranked.raised and ranked.body_part == BodyPart.MIXED


def test_what_could_not_be_scored_is_unavailable_at_its_ordered_priority():
    ranked = rank(study(ordered=Priority.URGENT, body_parts=(BodyPart.HIP,), unscored=2))
    assert (ranked.ai_priority, ranked.score, ranked.radiograph_id) == (AiPriority.UNAVAILABLE, None, 7)
    assert ranked.images_unscored == 2 and not ranked.raised
    assert minutes_to_read(ranked) == 60


def test_images_without_a_score_are_counted_and_hide_nothing():
    ranked = rank(study(BELOW, URGENT, unscored=3))
    assert ranked.ai_priority == AiPriority.URGENT
    assert (ranked.images, ranked.images_unscored) == (5, 3)


def test_with_prioritisation_off_the_score_is_seen_and_the_order_alone_counts():
    ranked = rank(study(URGENT, body_parts=(BodyPart.HIP,)), prioritisation=False)
    assert (ranked.ai_priority, ranked.score) == (AiPriority.URGENT, 0.9)
    assert not ranked.raised and not ranked.prioritised
    assert minutes_to_read(ranked) == 24 * 60


def test_a_later_view_ranks_the_study_again():
    assert rank(study(BELOW)).ai_priority == AiPriority.BELOW
    assert rank(study(BELOW, URGENT)).ai_priority == AiPriority.URGENT


def test_stat_stays_stat_whatever_is_raised():
    assert effective_priority(Priority.STAT, AiPriority.URGENT, raised=True) == Priority.STAT


@pytest.mark.parametrize(
    "change",
    [
        {"prioritisation": False},
        {"region_weights": frozenset({BodyPart.HIP})},
        {"minutes_stat": 10},
        {"minutes_urgent": 30},
        {"minutes_routine": 60},
    ],
)
def test_each_rule_is_part_of_the_name_by_which_open_studies_are_placed_anew(change):
    assert RankingRules(**change).id != RankingRules().id == RankingRules().id


def test_the_times_to_read_are_settings():
    rules = {"minutes_stat": 5, "minutes_urgent": 30, "minutes_routine": 600}
    assert [minutes_to_read(rank(study(ordered=ordered), **rules)) for ordered in Priority] == [5, 30, 600]


@pytest.mark.parametrize(
    ("ordered", "ai", "prioritised", "late"),
    [
        (Priority.ROUTINE, AiPriority.BELOW, True, Priority.URGENT),
        (Priority.ROUTINE, AiPriority.URGENT, True, Priority.STAT),
        (Priority.ROUTINE, AiPriority.URGENT, False, Priority.URGENT),
        (Priority.URGENT, AiPriority.UNAVAILABLE, True, Priority.STAT),
        (Priority.STAT, AiPriority.BELOW, True, Priority.STAT),
    ],
)
def test_past_its_due_time_a_study_rises_one_step(ordered, ai, prioritised, late):
    in_time = effective_priority(ordered, ai, raised=False, prioritised=prioritised)
    assert effective_priority(ordered, ai, raised=False, prioritised=prioritised, overdue=True) == late
    rungs = list(Priority)
    assert rungs.index(late) == max(0, rungs.index(in_time) - 1)
