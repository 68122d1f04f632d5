"""The winner of a night's tuning, and what its study leaves for people."""

import json
import logging
from collections.abc import Sequence

from fracture_ml.core.recipe import TrainRecipe
from fracture_ml.steps import keys
from fracture_ml.steps.settings import Settings
from fracture_ml.stores import Stores
from fracture_ml.training.study_report import draw_study, trials_csv
from fracture_ml.training.study_result import result_of

log = logging.getLogger(__name__)


def choose_recipe(stores: Stores, settings: Settings, *, tuned: Sequence[dict]) -> dict:
    """What a study's workers found together; its table and pictures are left in the bucket.

    Args:    tuned: what `tune` returned to each worker. Where they began with other weights or could not read the same
             radiographs, they worked on several studies: the one with the most trials that ended counts.
    Returns: {"study_name", "recipe"}: the recipe of the final training, with the winner's batch size, learning rate
             and scheduler in it.
    """
    storage_url = settings.database_url.get_secret_value()
    results = {
        study_name: result_of(storage_url, study_name, TrainRecipe.from_json(recipe))
        for study_name, recipe in {one["study_name"]: one["recipe"] for one in tuned}.items()
    }
    study_name, result = max(results.items(), key=lambda of: sum(trial["value"] is not None for trial in of[1].trials))
    if len(results) > 1:
        log.warning(
            "The workers did not begin with the same weights, or could not read the same radiographs: of the studies "
            "%s the last one named has the most trials that ended, and counts.",
            ", ".join([*(name for name in results if name != study_name), study_name]),
        )
    folder = keys.study_folder(study_name)
    stores.bucket.write(f"{folder}/trials.json", json.dumps(result.trials, default=str).encode(), "application/json")
    stores.bucket.write(f"{folder}/trials.csv", trials_csv(result.trials).encode(), "text/csv")
    for name, png in draw_study(storage_url, study_name).items():
        stores.bucket.write(f"{folder}/{name}.png", png, "image/png")
    log.info("the table and the pictures of the study are in the bucket under %s/", folder)
    winner = result.best_recipe
    log.info(
        "the study's winner: batch %d, learning rate %g, %s; mean validation %s over the folds: %s",
        winner.batch_size,
        winner.peak_lr,
        winner.scheduler,
        result.metric,
        "no trial ended in time" if result.best_value is None else f"{result.best_value:.3f}",
    )
    return {"study_name": study_name, "recipe": winner.to_json()}
