"""The night's tuning: recipes cross-validated inside the training split, and the winner."""

import json
import logging

import numpy as np

from fracture_ml.core.records import Split
from fracture_ml.model.device import choose_device
from fracture_ml.steps.initial_weights import initial_weights
from fracture_ml.steps.model_card import study_folder
from fracture_ml.steps.pixels import open_pixels
from fracture_ml.steps.presets import NightlyWork
from fracture_ml.steps.settings import Settings
from fracture_ml.stores import Stores
from fracture_ml.training.study import run_study
from fracture_ml.training.study_report import draw_study, trials_csv

log = logging.getLogger(__name__)


def tune(stores: Stores, settings: Settings, *, snapshot_id: str, work: NightlyWork) -> dict:
    """Cross-validate recipes inside the training split.

    Returns: {"study_name", "recipe"}: the recipe of the final training, with the winner's batch size, learning rate
             and scheduler in it.
    """
    initial_state, weights_used = initial_weights(stores, settings, work.recipe)
    base = work.recipe.with_changes(initial_weights=weights_used)
    data = open_pixels(stores, settings, snapshot_id=snapshot_id, size_px=work.study.image_size_px)
    rows = data.rows_of(Split.TRAIN)
    folds = np.array([data.members[row].fold for row in rows], dtype=np.int64)
    study_name = f"{snapshot_id[:16]}-{work.study.id[:16]}-{base.id[:16]}"
    result = run_study(
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
    folder = study_folder(study_name)
    stores.bucket.write(f"{folder}/trials.json", json.dumps(result.trials, default=str).encode(), "application/json")
    stores.bucket.write(f"{folder}/trials.csv", trials_csv(result.trials).encode(), "text/csv")
    for name, png in draw_study(settings.database_url.get_secret_value(), study_name).items():
        stores.bucket.write(f"{folder}/{name}.png", png, "image/png")
    log.info("the table and the pictures of the study are in the bucket under %s/", folder)
    winner = result.best_recipe
    recipe = base.with_changes(batch_size=winner.batch_size, peak_lr=winner.peak_lr, scheduler=winner.scheduler)
    log.info(
        "the study's winner: batch %d, learning rate %g, %s; mean validation %s over the folds: %s",
        recipe.batch_size,
        recipe.peak_lr,
        recipe.scheduler,
        work.study.metric,
        "no trial ended in time" if result.best_value is None else f"{result.best_value:.3f}",
    )
    return {"study_name": study_name, "recipe": recipe.to_json()}
