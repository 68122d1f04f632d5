"""Sides and folds: what belongs together stays together, and never moves."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fracture_ml.core.errors import LeakageFound, NotEnoughData
from fracture_ml.core.recipe import SplitPlan, hash_of_json
from fracture_ml.core.records import Box, Candidate, LabelValue, SnapshotMember, Split
from fracture_ml.data.splits import check_no_leakage, draft_snapshot, fold_of, require_trainable, side_of

PLAN = SplitPlan(vault_share=0.05)


@st.composite
def arrivals(draw):
    """Candidates in order of arrival, tangled on purpose: shared patients, studies and pictures across groups."""
    size = draw(st.integers(1, 30))
    candidates = []
    for number in range(size):
        patient = draw(st.none() | st.integers(0, 6))
        study = draw(st.integers(0, 10))
        group = draw(st.integers(0, 12))
        original = draw(st.none() | st.integers(0, number - 1)) if number else None
        candidates.append(
            Candidate(
                radiograph_id=number,
                sha256=f"{number:064x}",
                group_key=f"group-{group}",
                patient_key=None if patient is None else f"patient-{patient}",
                study_key=f"study-{study}",
                near_duplicate_of=None if original is None else f"{original:064x}",
                label=draw(st.sampled_from(LabelValue)),
            )
        )
    return candidates


@settings(max_examples=150, deadline=None)
@given(arrivals(), st.randoms(use_true_random=False))
def test_no_patient_study_or_near_duplicate_crosses_and_the_order_of_rows_does_not_matter(candidates, random):
    draft = draft_snapshot(candidates, PLAN)
    check_no_leakage(draft.members, candidates)
    assert len(draft.members) + sum(draft.left_out.values()) == len(candidates)
    shuffled = list(candidates)
    random.shuffle(shuffled)
    assert draft_snapshot(shuffled, PLAN) == draft


@settings(max_examples=150, deadline=None)
@given(arrivals(), st.integers(0, 30))
def test_adding_data_never_moves_a_group_nor_pushes_out_a_member(candidates, cut):
    earlier = {member.sha256: member for member in draft_snapshot(candidates[:cut], PLAN).members}
    later = {member.sha256: member for member in draft_snapshot(candidates, PLAN).members}
    assert earlier.items() <= later.items()


def test_groups_fall_on_each_side_and_into_each_fold_by_their_shares():
    keys = [f"patient:{number}" for number in range(20_000)]
    shares = {split: count / len(keys) for split, count in Counter(side_of(key, PLAN) for key in keys).items()}
    expected = {Split.TEST: 0.20, Split.VALIDATION: 0.15, Split.VAULT: 0.05, Split.TRAIN: 0.60}
    assert shares == pytest.approx(expected, abs=0.015)
    folds = Counter(fold_of(key, PLAN) for key in keys if side_of(key, PLAN) is Split.TRAIN)
    assert sorted(folds) == list(range(5))
    assert all(count / folds.total() == pytest.approx(0.2, abs=0.02) for count in folds.values())


def test_a_group_stands_where_it_stood_when_this_was_written():
    assert [side_of(f"patient:{n}", SplitPlan()).value for n in range(8)] == [
        "test",
        "train",
        "train",
        "train",
        "validation",
        "validation",
        "validation",
        "validation",
    ]
    assert [fold_of(f"patient:{n}", SplitPlan()) for n in range(8)] == [4, 0, 4, 2, 0, 3, 3, 4]


def _candidate(number: int, group: str, **changes) -> Candidate:
    values = {
        "patient_key": None,
        "study_key": group,
        "near_duplicate_of": None,
        "label": LabelValue.NEGATIVE,
        **changes,
    }
    return Candidate(radiograph_id=number, sha256=f"{number:064x}", group_key=group, **values)


def _groups_at_two_places() -> tuple[str, str]:
    keys = (f"study:{number}" for number in range(1000))
    first = next(keys)
    return first, next(key for key in keys if side_of(key, PLAN) is not side_of(first, PLAN))


def test_what_is_left_out_is_counted_by_its_reason():
    here, there = _groups_at_two_places()
    draft = draft_snapshot(
        [
            _candidate(1, here, patient_key="p"),
            _candidate(2, there, patient_key="p"),
            _candidate(3, there, study_key=here),
            _candidate(4, there, near_duplicate_of=f"{1:064x}"),
            _candidate(5, here, near_duplicate_of=f"{1:064x}", label=LabelValue.POSITIVE),
            _candidate(6, here, label=LabelValue.UNCERTAIN),
        ],
        PLAN,
    )
    assert [member.radiograph_id for member in draft.members] == [1, 5]
    assert draft.left_out == {
        "patient on another side": 1,
        "study on another side": 1,
        "near duplicate on another side": 1,
        "label uncertain": 1,
    }


def test_of_two_that_belong_together_the_one_that_came_first_stays():
    here, there = _groups_at_two_places()
    later = _candidate(2, there, patient_key="p")
    first = replace(_candidate(1, here, patient_key="p"), sha256="f" * 64)  # which of them sorts first tells nothing
    assert [member.radiograph_id for member in draft_snapshot([later, first], PLAN).members] == [1]


def test_two_near_duplicates_of_a_picture_that_is_no_candidate_are_near_duplicates():
    here, there = _groups_at_two_places()
    absent = "f" * 64
    draft = draft_snapshot(
        [_candidate(1, here, near_duplicate_of=absent), _candidate(2, there, near_duplicate_of=absent)], PLAN
    )
    assert draft.left_out == {"near duplicate on another side": 1}


def test_abnormal_is_a_fracture_only_where_fewer_say_fracture():
    def candidates(fractures: int, abnormal: int) -> list[Candidate]:
        said = ["fracture"] * fractures + ["abnormal"] * abnormal
        positive = [
            replace(_candidate(number, f"study:{number}", label=LabelValue.POSITIVE), meaning=meaning)
            for number, meaning in enumerate(said)
        ]
        return [*positive, replace(_candidate(99, "study:99"), meaning="abnormal")]

    mixed = draft_snapshot(candidates(fractures=3, abnormal=2), PLAN)
    assert [member.radiograph_id for member in sorted(mixed.members, key=lambda m: m.radiograph_id)] == [0, 1, 2]
    assert mixed.left_out == {"the label speaks of abnormal, not of fractures": 3}
    assert mixed.positive_means == "fracture"
    of_one_source = draft_snapshot(candidates(fractures=3, abnormal=0), PLAN)
    assert len(of_one_source.members) == 4, "no positive of that source is missing: its negatives tell nothing"
    mostly_abnormal = draft_snapshot(candidates(fractures=1, abnormal=2), PLAN)
    assert len(mostly_abnormal.members) == 4 and mostly_abnormal.positive_means == "abnormal"
    assert draft_snapshot([_candidate(1, "study:1")], PLAN).positive_means == "fracture"


def test_the_id_names_the_rows_and_the_plan():
    candidates = [_candidate(number, f"study:{number}") for number in range(10)]
    draft = draft_snapshot(candidates, PLAN)
    assert draft.id == draft_snapshot(candidates, PLAN).id
    assert draft.id != draft_snapshot(candidates, SplitPlan(seed=1)).id
    assert draft.id != draft_snapshot([*candidates[:-1], _candidate(9, "study:9", label=LabelValue.POSITIVE)], PLAN).id
    assert [member.sha256 for member in draft.members] == sorted(member.sha256 for member in draft.members)


def test_a_box_is_part_of_the_id_and_without_boxes_the_id_is_what_it_always_was():
    candidates = [_candidate(number, f"study:{number}", label=LabelValue.POSITIVE) for number in range(10)]
    plain = draft_snapshot(candidates, PLAN)
    rows = [[member.sha256, member.label, member.split, member.fold] for member in plain.members]
    assert plain.id == hash_of_json({"plan": PLAN.to_json(), "rows": rows})
    box, other = Box(x=1.0, y=2.0, width=3.0, height=4.0), Box(x=1.0, y=2.0, width=3.0, height=5.0)
    drafts = [
        draft_snapshot([replace(candidates[0], boxes=boxes), *candidates[1:]], PLAN)
        for boxes in ((box,), (other,), (box, other))
    ]
    assert len({plain.id, *(draft.id for draft in drafts)}) == 4
    assert drafts[2].members[0].boxes == (box, other) and drafts[2].members[1].boxes == ()


def _members(*places: tuple[str, int, Split, int | None]) -> list[SnapshotMember]:
    return [
        SnapshotMember(
            radiograph_id=number, sha256=f"{number:064x}", group_key=group, label=label, split=split, fold=fold
        )
        for number, (group, label, split, fold) in enumerate(places)
    ]


def test_leakage_is_found_by_looking_at_the_members():
    with pytest.raises(LeakageFound, match="group: 1"):
        check_no_leakage(_members(("a", 0, Split.TRAIN, 0), ("a", 0, Split.TRAIN, 1)))
    members = _members(("a", 0, Split.TRAIN, 0), ("b", 0, Split.TEST, None))
    with pytest.raises(LeakageFound, match="near duplicate: 1, patient: 1"):
        check_no_leakage(
            members,
            [_candidate(0, "a", patient_key="p"), _candidate(1, "b", patient_key="p", near_duplicate_of=f"{0:064x}")],
        )
    two_folds = _members(("a", 0, Split.TRAIN, 0), ("b", 0, Split.TRAIN, 1))
    of_one_patient = [_candidate(0, "a", patient_key="p"), _candidate(1, "b", patient_key="p")]
    with pytest.raises(LeakageFound, match="patient: 1"):
        check_no_leakage(two_folds, of_one_patient)
    check_no_leakage(two_folds, of_one_patient, across_folds=False)


def test_what_is_missing_for_training_is_said_in_a_sentence():
    whole = [("v0", 0, Split.VALIDATION, None), ("v1", 1, Split.VALIDATION, None), ("t0", 0, Split.TEST, None),
             ("t1", 1, Split.TEST, None), *((f"g{n}", n % 2, Split.TRAIN, n // 2) for n in range(6))]  # fmt: skip
    require_trainable(_members(*whole), 3)
    with pytest.raises(NotEnoughData, match="No radiograph has a usable label"):
        require_trainable([], 3)
    with pytest.raises(NotEnoughData, match="The test split is empty"):
        require_trainable(_members(*(row for row in whole if row[2] is not Split.TEST)), 3)
    with pytest.raises(NotEnoughData, match="The validation split is empty"):
        require_trainable(_members(*whole[2:]), 3)
    with pytest.raises(NotEnoughData, match="The training split has 3 patients or studies for 4 folds"):
        require_trainable(_members(*whole[:4], *((f"g{n // 2}", n % 2, Split.TRAIN, n // 2) for n in range(6))), 4)
    with pytest.raises(NotEnoughData, match="Fold 0 of 2 leaves too little"):  # nothing but negatives to train on
        in_one_fold = [("g0", 1, Split.TRAIN, 0), ("g1", 0, Split.TRAIN, 0), ("g2", 0, Split.TRAIN, 1)]
        require_trainable(_members(*whole[:4], *in_one_fold), 2)
    with pytest.raises(NotEnoughData, match="All 5 radiographs of the train split are negative: add positive"):
        require_trainable(_members(*whole[:4], *((f"g{n}", 0, Split.TRAIN, n) for n in range(5))), 5)
    with pytest.raises(NotEnoughData, match="6 patients or studies for 7 folds"):
        require_trainable(_members(*whole), 7)
    with pytest.raises(NotEnoughData, match="Fold 1 of 3"):
        require_trainable(_members(*(row for row in whole if row[3] != 1), ("g8", 0, Split.TRAIN, 0)), 3)
