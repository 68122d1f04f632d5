"""How much work a night may be: presets, and a trigger form's overrides."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fracture_ml.core.errors import InvalidRecipe
from fracture_ml.core.recipe import StudyPlan, TrainRecipe


@dataclass(frozen=True, kw_only=True)
class NightlyWork:
    """A night: what the tuning may try, and the recipe that its winner is put into."""

    study: StudyPlan
    recipe: TrainRecipe


# What made the difference where the network begins with random weights and few fractures (docs/LOG.md, 2026-11-25).
_FROM_SCRATCH = {"balance": "balanced_sampling", "location_weight": 3.0}
_STUDY_ON_CPU = StudyPlan(
    batch_sizes=(32,),
    peak_lrs=(1e-3, 3e-4),
    schedulers=("cosine",),
    trials=2,
    epochs=1,
    image_size_px=64,
    metric="auroc",
    time_budget_s=150,
)
_ON_CPU = TrainRecipe(
    image_size_px=128,
    batch_size=32,
    # For trainings of some thousand steps: a weight is forgotten in 1 / (rate x decay) of them (docs/LOG.md).
    optimizer="adamw",
    weight_decay=0.5,
    rotation_degrees=10.0,
    scale_range=0.1,
    selection_metric="auroc",
    **_FROM_SCRATCH,
)

PRESETS = {
    # Minutes on 2 cores, for the drawn radiographs.
    "demo": NightlyWork(
        study=replace(_STUDY_ON_CPU, peak_lrs=(1e-3, 2e-3), schedulers=("cosine",), image_size_px=32, time_budget_s=30),
        recipe=TrainRecipe(
            image_size_px=64,
            smallest_image_size_px=32,
            batch_size=32,
            epochs=12,
            rotation_degrees=10.0,
            selection_metric="auroc",
            **_FROM_SCRATCH,
        ),
    ),
    # On 2 cores, for 2,854 real radiographs: 40 minutes, and an hour (docs/LOG.md).
    "cpu": NightlyWork(study=_STUDY_ON_CPU, recipe=replace(_ON_CPU, epochs=30)),
    "cpu_hour": NightlyWork(study=_STUDY_ON_CPU, recipe=replace(_ON_CPU, epochs=60, smallest_image_size_px=64)),
    "nightly": NightlyWork(
        study=StudyPlan(trials=12, epochs=10, metric="accuracy", time_budget_s=4 * 3600),
        recipe=TrainRecipe(**_FROM_SCRATCH),
    ),
    # The whole grid of the seed project: 3 batch sizes x 3 learning rates x 3 schedulers x 5 folds x 30 epochs.
    "full": NightlyWork(study=StudyPlan(prune=False, time_budget_s=24 * 3600), recipe=TrainRecipe(**_FROM_SCRATCH)),
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
    "image_size_px": "image_size_px",
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
    return NightlyWork(study=replace(work.study, **study), recipe=replace(work.recipe, **filled(_RECIPE_OVERRIDES)))
