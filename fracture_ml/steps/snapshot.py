"""Freeze what can be learned from into a snapshot. Needs no torch, so that an hour's look costs a second."""

import logging
from collections import Counter
from datetime import datetime

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

from fracture_ml.core.errors import Conflict
from fracture_ml.core.recipe import SplitPlan
from fracture_ml.data.splits import check_no_leakage, draft_snapshot, require_trainable
from fracture_ml.steps.settings import Settings
from fracture_ml.stores import Stores

log = logging.getLogger(__name__)

_ATTEMPTS = 5  # a label file that is read meanwhile may change groups


def split_plan(settings: Settings) -> SplitPlan:
    """The shares of this place."""
    return SplitPlan(vault_share=settings.vault_share)


def freeze_snapshot(
    stores: Stores, *, as_of: datetime, force: bool = False, plan: SplitPlan | None = None
) -> str | None:
    """Freeze every usable labelled radiograph received by `as_of`. None: nothing new since the last trained snapshot.

    Raises: NotEnoughData: no labels, one class only, fewer groups than folds; the sentence says which.
    """
    plan = plan or SplitPlan()
    for attempt in Retrying(retry=retry_if_exception_type(Conflict), stop=stop_after_attempt(_ATTEMPTS), reraise=True):
        with attempt:
            return _freeze(stores, plan, as_of=as_of, force=force)


def _freeze(stores: Stores, plan: SplitPlan, *, as_of: datetime, force: bool) -> str | None:
    candidates = stores.radiographs.candidates(as_of=as_of)
    draft = draft_snapshot(candidates, plan)
    require_trainable(draft.members, plan.folds)
    check_no_leakage(draft.members, candidates)
    if not force and any(version.snapshot_id == draft.id for version in stores.registry.versions()):
        return None
    stores.snapshots.save(draft, plan, as_of=as_of)
    sides = Counter((member.split.value, member.label) for member in draft.members)
    log.info(
        "snapshot %s: %d radiographs; %s; left out: %s",
        draft.id[:12],
        len(draft.members),
        ", ".join(f"{split} {sides[split, 1]}+/{sides[split, 0]}-" for split in ("train", "validation", "test")),
        draft.left_out or "none",
    )
    return draft.id
