"""The night's tuning: recipes cross-validated inside the training split, by any number of workers."""

import logging

import numpy as np

from fracture_ml.core.recipe import hash_of_json
from fracture_ml.core.records import Split
from fracture_ml.model.device import choose_device
from fracture_ml.steps.initial_weights import initial_weights
from fracture_ml.steps.pixels import open_pixels
from fracture_ml.steps.presets import NightlyWork
from fracture_ml.steps.settings import Settings
from fracture_ml.stores import Stores
from fracture_ml.training.study import comparable_id, run_study

log = logging.getLogger(__name__)


def tune(stores: Stores, settings: Settings, *, snapshot_id: str, work: NightlyWork) -> dict:
    """Cross-validate recipes inside the training split, beside whoever else works on the same study.

    Returns: {"study_name", "recipe"}: where the results are, and the recipe that the winner is to be put into.
    """
    initial_state, weights_used = initial_weights(stores, settings, work.recipe)
    base = work.recipe.with_changes(initial_weights=weights_used)
    data = open_pixels(stores, settings, snapshot_id=snapshot_id, size_px=work.study.image_size_px)
    rows = data.rows_of(Split.TRAIN)
    folds = np.array([data.members[row].fold for row in rows], dtype=np.int64)
    study_name = f"{snapshot_id[:16]}-{comparable_id(work.study, base)[:16]}"
    missing = [member.sha256 for member, _ in data.not_readable if member.split is Split.TRAIN]
    if missing:  # other data than those of a worker, or a night, that can read them
        study_name += f"-without-{hash_of_json(missing)[:8]}"
    here, frozen = len(rows) + len(missing), stores.snapshots.find(snapshot_id)["counts"]["splits"]["train"]
    if here < sum(frozen.values()):  # some were erased since
        study_name += f"-of-{here}"
    run_study(
        work.study,
        base,
        data.pixels,
        data.labels,
        data.boxes,
        folds,
        rows,
        choose_device(settings.device),
        storage_url=settings.database_url.get_secret_value(),
        study_name=study_name,
        initial_state=initial_state,
        on_progress=lambda progress: log.info("tuning: %s", progress),
    )
    return {"study_name": study_name, "recipe": base.to_json()}
