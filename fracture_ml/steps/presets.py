"""How much work a night may be: four presets, and a trigger form's overrides."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fracture_ml.core.errors import InvalidRecipe
from fracture_ml.core.recipe import StudyPlan, TrainRecipe


@dataclass(frozen=True, kw_only=True)
class NightlyWork:
    """A night: what the tuning may try, and the recipe that its winner is put into.

    `recipe` is for data whose labels drew most of the fractures, `undrawn` for those that only say which image has one.
    """

    study: StudyPlan
    recipe: TrainRecipe
    undrawn: TrainRecipe


# Whole images, where nobody drew where the fractures are.
_WHOLE = TrainRecipe(balance="weighted_loss", selection_metric="auroc")
# Crops at nearly the source's own resolution; a limb lies in any direction.
_CROPS = TrainRecipe(
    image_size_px=448,
    crop_px=128,
    rotation_degrees=180.0,
    scale_range=0.2,
    shift_fraction=0.0,
    ema_decay=0.995,
    selection_metric="auroc",
)

PRESETS = {
    # Minutes on 2 cores, for the drawn radiographs.
    "demo": NightlyWork(
        study=StudyPlan(
            batch_sizes=(32,),
            peak_lrs=(1e-3,),
            schedulers=("cosine", "step"),
            trials=2,
            epochs=1,
            image_size_px=32,
            metric="auroc",
            time_budget_s=40,
        ),
        recipe=_CROPS.with_changes(image_size_px=128, crop_px=64, epochs=5),
        undrawn=_WHOLE.with_changes(image_size_px=64, epochs=11),
    ),
    # Half an hour on 2 cores for 2,854 real radiographs (docs/LOG.md).
    "cpu": NightlyWork(
        study=StudyPlan(
            batch_sizes=(16, 32),
            peak_lrs=(1e-3,),
            schedulers=("cosine",),
            trials=2,
            epochs=1,
            image_size_px=224,
            metric="auroc",
            time_budget_s=300,
        ),
        recipe=_CROPS.with_changes(image_size_px=448, crop_px=128, epochs=10),
        undrawn=_WHOLE.with_changes(image_size_px=128, epochs=22),
    ),
    "nightly": NightlyWork(
        study=StudyPlan(trials=12, epochs=10, metric="auroc", time_budget_s=4 * 3600),
        recipe=_CROPS.with_changes(image_size_px=448, crop_px=224, epochs=30),
        undrawn=_WHOLE.with_changes(image_size_px=448, epochs=30),
    ),
    # The whole grid of the seed project: 3 batch sizes x 3 learning rates x 3 schedulers x 5 folds x 30 epochs.
    "full": NightlyWork(
        study=StudyPlan(prune=False, time_budget_s=24 * 3600), recipe=TrainRecipe(), undrawn=TrainRecipe()
    ),
}

_STUDY_OVERRIDES = {
    "trials": "trials",
    "folds": "folds",
    "tuning_epochs": "epochs",
    "tuning_image_size_px": "image_size_px",
    "metric": "metric",
}
_RECIPE_OVERRIDES = {
    "epochs": "epochs",
    "seed": "seed",
    "metric": "selection_metric",
    "mirrored_scoring": "mirrored_scoring",
}


def plan_of(params: Mapping[str, Any]) -> NightlyWork:
    """The preset that `params` names, with every other filled field put over its part of it.

    Raises: InvalidRecipe: an unknown preset, or a value out of its bounds.
    """
    if params["preset"] not in PRESETS:
        raise InvalidRecipe(f"preset={params['preset']!r}: must be one of {', '.join(PRESETS)}")
    work = PRESETS[params["preset"]]

    def filled(names: Mapping[str, str]) -> dict[str, Any]:
        return {ours: params[form] for form, ours in names.items() if params.get(form) is not None}

    study = filled(_STUDY_OVERRIDES)
    if params.get("tuning_minutes") is not None:
        study["time_budget_s"] = 60 * params["tuning_minutes"]
    changes = filled(_RECIPE_OVERRIDES)

    def changed(recipe: TrainRecipe) -> TrainRecipe:
        size_px = params.get("image_size_px")
        return (recipe if size_px is None else recipe.at_size(size_px)).with_changes(**changes)

    return NightlyWork(study=replace(work.study, **study), recipe=changed(work.recipe), undrawn=changed(work.undrawn))
