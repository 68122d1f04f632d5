"""Which side of the data a radiograph stands on: pure, deterministic, and decided by its group alone.

A group (patient, else study, else cluster of near-duplicates) has one place: a split, and inside the training split a
fold. The place is a hash of the group's key, so that it never changes as data arrive. Groups are made when radiographs
are stored; where two groups turn out to share a patient, a study or a picture, and stand at different places, the later
radiographs are left out, and counted.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import astuple

from fracture_ml.core.errors import LeakageFound, NotEnoughData
from fracture_ml.core.recipe import SplitPlan, hash_of_json
from fracture_ml.core.records import Candidate, LabelMeaning, LabelValue, SnapshotDraft, SnapshotMember, Split, Tied


def side_of(group_key: str, plan: SplitPlan) -> Split:
    """The split of a group."""
    place = _uniform("split", group_key, plan)
    for split, share in (
        (Split.TEST, plan.test_share),
        (Split.VALIDATION, plan.validation_share),
        (Split.VAULT, plan.vault_share),
    ):
        if place < share:
            return split
        place -= share
    return Split.TRAIN


def fold_of(group_key: str, plan: SplitPlan) -> int:
    """The fold of a group of the training split, 0 to plan.folds - 1; independent of its side."""
    return int(_uniform("fold", group_key, plan) * plan.folds)


def draft_snapshot(candidates: Sequence[Candidate], plan: SplitPlan) -> SnapshotDraft:
    """Place every candidate that can be used; count the others by reason.

    Candidates are taken in the order in which they arrived: one that would bring a patient, a study or a near-duplicate
    to a second place is left out. Radiographs that arrive later therefore never push out or move those before them,
    unless one shows that two before it belong together.

    A label may say "abnormal", which is more than a fracture (MURA). Where most positive labels say "fracture", those
    that speak of "abnormal" are left out, the negative ones too: by themselves they would tell a source from another.
    Where most positive ones say "abnormal", all stay, and so does the word.
    """
    positive_means = _meaning_of_positives(candidates)
    mixed = any(c.meaning == LabelMeaning.ABNORMAL and c.label is LabelValue.POSITIVE for c in candidates)
    root_of = _near_duplicate_roots(candidates)
    place_of: dict[tuple[str, str], tuple[Split, int | None]] = {}
    members: list[SnapshotMember] = []
    left_out: Counter[str] = Counter()
    for candidate in sorted(candidates, key=lambda c: (c.radiograph_id, c.sha256)):
        if candidate.label is LabelValue.ABSENT:
            left_out["no label"] += 1
            continue
        if candidate.label is LabelValue.UNCERTAIN:
            left_out["label uncertain"] += 1
            continue
        if mixed and candidate.meaning == LabelMeaning.ABNORMAL and positive_means == LabelMeaning.FRACTURE:
            left_out["the label speaks of abnormal, not of fractures"] += 1
            continue
        split = side_of(candidate.group_key, plan)
        place = (split, fold_of(candidate.group_key, plan) if split is Split.TRAIN else None)
        ties = list(_ties(candidate, root_of))
        crossed = next((kind for kind, key in ties if place_of.get((kind, key), place) != place), None)
        if crossed:
            left_out[f"{crossed} on another side"] += 1
            continue
        place_of.update(dict.fromkeys(ties, place))
        members.append(
            SnapshotMember(
                radiograph_id=candidate.radiograph_id,
                sha256=candidate.sha256,
                group_key=candidate.group_key,
                label=int(candidate.label is LabelValue.POSITIVE),
                split=place[0],
                fold=place[1],
                boxes=candidate.boxes,
            )
        )
    members.sort(key=lambda member: member.sha256)
    rows = [
        [m.sha256, m.label, m.split, m.fold, *([[astuple(box) for box in m.boxes]] if m.boxes else [])] for m in members
    ]
    return SnapshotDraft(
        id=hash_of_json({"plan": plan.to_json(), "rows": rows}),
        members=tuple(members),
        left_out=dict(left_out),
        positive_means=positive_means,
    )


def check_no_leakage(
    members: Sequence[SnapshotMember], ties: Sequence[Tied] = (), *, across_folds: bool = True
) -> None:
    """Look at a snapshot from the outside: nothing that belongs together stands at two places.

    Groups are looked at always; patients, studies and near-duplicates of those members that `ties` holds.
    Args:   across_folds: two folds of the training split are two places. False: only splits are: the test's figures.
    Raises: LeakageFound: with the number of groups, patients, studies and near-duplicates at two places.
    """
    root_of = _near_duplicate_roots(ties)
    tie_of = {tied.radiograph_id: tied for tied in ties}
    places: dict[tuple[str, str], set[tuple[Split, int | None]]] = defaultdict(set)
    for member in members:
        place = (member.split, member.fold if across_folds else None)
        places["group", member.group_key].add(place)
        if tied := tie_of.get(member.radiograph_id):
            for tie in _ties(tied, root_of):
                places[tie].add(place)
    crossing = Counter(kind for (kind, _), standing in places.items() if len(standing) > 1)
    if crossing:
        counts = ", ".join(f"{kind}: {count}" for kind, count in sorted(crossing.items()))
        raise LeakageFound(f"The snapshot has the same on two sides ({counts}): do not train on it, report this.")


def require_trainable(members: Sequence[SnapshotMember], folds: int) -> None:
    """Nothing, when a network can be trained, tuned over `folds` folds and tested on these members.

    Raises: NotEnoughData: a sentence that names what is missing and what to do.
    """
    if not members:
        raise NotEnoughData(
            "No radiograph has a usable label: put labels into the bucket (see the README) and ingest them."
        )
    for split in (Split.TRAIN, Split.VALIDATION, Split.TEST):
        labels = Counter(member.label for member in members if member.split is split)
        if not labels:
            raise NotEnoughData(f"The {split} split is empty: add radiographs of more patients or studies.")
        if len(labels) == 1:
            only, other = ("positive", "negative") if labels[1] else ("negative", "positive")
            raise NotEnoughData(f"All {labels.total()} radiographs of the {split} split are {only}: add {other} ones.")
    training = [member for member in members if member.split is Split.TRAIN]
    groups = len({member.group_key for member in training})
    if groups < folds:
        raise NotEnoughData(
            f"The training split has {groups} patients or studies for {folds} folds: add more, or ask for fewer folds."
        )
    for fold in range(folds):
        inside = [member for member in training if member.fold % folds == fold]
        outside = {member.label for member in training if member.fold % folds != fold}
        if not inside or len(outside) < 2:
            raise NotEnoughData(
                f"Fold {fold} of {folds} leaves too little to train and validate on: add radiographs, "
                "or ask for fewer folds."
            )


def _meaning_of_positives(candidates: Sequence[Candidate]) -> LabelMeaning:
    """What most positive labels say; a fracture where as many say either, or there are none."""
    meanings = Counter(candidate.meaning for candidate in candidates if candidate.label is LabelValue.POSITIVE)
    return max(LabelMeaning, key=lambda meaning: meanings[meaning])


def _uniform(purpose: str, group_key: str, plan: SplitPlan) -> float:
    """A number from 0 to below 1 that depends on the purpose, the plan's seed and the group alone."""
    digest = hashlib.sha256(f"{purpose}|{plan.seed}|{group_key}".encode()).digest()
    return (int.from_bytes(digest[:8]) >> 11) / 2**53


def _ties(tied: Tied, root_of: dict[str, str]) -> Iterator[tuple[str, str]]:
    """What it must not be parted from: (kind, key)."""
    if tied.patient_key is not None:
        yield "patient", tied.patient_key
    yield "study", tied.study_key
    yield "near duplicate", root_of[tied.sha256]


def _near_duplicate_roots(ties: Sequence[Tied]) -> dict[str, str]:
    """sha256 -> one name for its whole cluster of near-duplicates. A link may lead to an image that is no candidate."""
    parent: dict[str, str] = {}

    def root(sha256: str) -> str:
        while (above := parent.setdefault(sha256, sha256)) != sha256:
            parent[sha256] = parent.setdefault(above, above)  # halve the path
            sha256 = above
        return sha256

    for tied in ties:
        if tied.near_duplicate_of is not None:
            parent[root(tied.sha256)] = root(tied.near_duplicate_of)
    return {tied.sha256: root(tied.sha256) for tied in ties}
