"""# Retrain nightly

01:00 UTC: freeze a snapshot of all labelled radiographs; tune (Optuna, cross-validation, on the GPU; as many tasks as
`FRACTURE_TUNING_WORKERS` says share one study); train the ResNet50 with the winner; evaluate it on the locked test
split; register it as a challenger. Where nothing is new since the last trained snapshot, the run is skipped, unless
`force` is set.

**Presets.** `demo`: minutes on a laptop. `cpu`: 40 minutes on 2 cores for some thousands of radiographs. `cpu_hour`: an
hour. `nightly`: a night on one GPU. `full`: the complete grid of 27 recipes x 5 folds x 30 epochs. Every other
field overrides its part of the preset where it is filled.

**When it fails.** `NotEnoughData`: the sentence says what is missing (no labels, one class, fewer groups than folds).
`TrainingDiverged`: lower the learning rates. `OutOfMemory`: a smaller image size; before that, batches are halved and
the log says so. Anything that was killed is repeated, and finds what was finished before: `tune` the folds that ended,
`train` its last checkpoint (every `FRACTURE_CHECKPOINT_SECONDS`).

**What it made:** the task `register` logs where the model card, `loss_plot.png` and `accuracy_plot.png` are; the task
`choose_recipe` where the study's table and pictures are.
"""

from datetime import timedelta

from airflow.sdk import CronTriggerTimetable, Param, TriggerRule, dag, task
from fracture_dag_defaults import CHALLENGER, DAG_DEFAULTS, FIRST_RUN_WITHIN, GPU_POOL

from fracture_ml.core.recipe import SELECTION_METRICS
from fracture_ml.steps.presets import PRESETS

OVERRIDES = {
    "trials": Param(None, type=["null", "integer"], minimum=1, maximum=1000, description="Recipes to try."),
    "folds": Param(None, type=["null", "integer"], minimum=2, maximum=5, description="Folds of the cross-validation."),
    "tuning_epochs": Param(None, type=["null", "integer"], minimum=1, maximum=1000, description="Epochs per fold."),
    "tuning_image_size_px": Param(
        None, type=["null", "integer"], minimum=32, maximum=1024, multipleOf=32, description="Image side while tuning."
    ),
    "tuning_minutes": Param(
        None,
        type=["null", "number"],
        exclusiveMinimum=0,
        maximum=1440,
        description="Tuning ends by then, with the best so far.",
    ),
    "metric": Param(
        None,
        type=["null", "string"],
        enum=[None, *SELECTION_METRICS],
        description="What the winner is chosen by, as its mean over the folds' validation sides.",
    ),
    "epochs": Param(
        None, type=["null", "integer"], minimum=1, maximum=1000, description="Epochs of the final training."
    ),
    "image_size_px": Param(
        None, type=["null", "integer"], minimum=32, maximum=1024, multipleOf=32, description="Image side of the model."
    ),
    "mirrored_scoring": Param(
        None,
        type=["null", "boolean"],
        description="Score an image together with its mirror image: twice the cost of scoring.",
    ),
    "seed": Param(
        None,
        type=["null", "integer"],
        minimum=0,
        maximum=2**32 - 1,
        description="Seed of the weights, the order and the augmentation.",
    ),
}


@dag(
    schedule=CronTriggerTimetable("0 1 * * *", timezone="UTC", run_immediately=FIRST_RUN_WITHIN),
    doc_md=__doc__,
    tags=["fracture", "train"],
    params={
        "preset": Param(
            "nightly",
            type="string",
            enum=list(PRESETS),
            description="How much work the night may be.",
        ),
        "force": Param(
            False, type="boolean", description="Train although nothing is new since the last trained snapshot."
        ),
        **OVERRIDES,
    },
    **DAG_DEFAULTS,
)
def retrain_nightly():
    @task
    def freeze_snapshot(params=None, dag_run=None) -> str:
        from airflow.sdk.exceptions import AirflowSkipException

        from fracture_ml.steps import snapshot
        from fracture_ml.steps.context import open_context
        from fracture_ml.steps.settings import load_settings

        plan = snapshot.split_plan(load_settings())
        snapshot_id = snapshot.freeze_snapshot(
            open_context(), as_of=dag_run.run_after, force=params["force"], plan=plan
        )
        if snapshot_id is None:
            raise AirflowSkipException("Nothing is new since the last trained snapshot; set `force` to train again.")
        return snapshot_id

    @task
    def share_out(snapshot_id: str) -> list[dict]:
        """What to tune on, once for each worker."""
        from fracture_ml.steps.settings import load_settings

        return [{"snapshot_id": snapshot_id}] * load_settings().tuning_workers

    # Longer than the longest budget, which ends a study well; this ends it with an error.
    @task(pool=GPU_POOL, queue="gpu", execution_timeout=timedelta(hours=30))
    def tune(share: dict, params=None) -> dict:
        from fracture_ml.steps import tune as step
        from fracture_ml.steps.context import open_context
        from fracture_ml.steps.presets import plan_of
        from fracture_ml.steps.settings import load_settings

        settings = load_settings()
        return step.tune(open_context(settings), settings, **share, work=plan_of(params))

    # A worker that failed takes nothing from what the others found; the final training says if its cause stays.
    @task(trigger_rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS)
    def choose_recipe(tuned: list[dict]) -> dict:
        from fracture_ml.steps import choose_recipe as step
        from fracture_ml.steps.context import open_context
        from fracture_ml.steps.settings import load_settings

        settings = load_settings()
        return step.choose_recipe(open_context(settings), settings, tuned=list(tuned))

    @task(pool=GPU_POOL, queue="gpu", execution_timeout=timedelta(hours=24))
    def train(snapshot_id: str, chosen: dict) -> dict:
        from fracture_ml.steps import train as step
        from fracture_ml.steps.context import open_context
        from fracture_ml.steps.settings import load_settings

        settings = load_settings()
        return step.train(open_context(settings), settings, snapshot_id=snapshot_id, recipe=chosen["recipe"])

    @task(pool=GPU_POOL, queue="gpu", outlets=[CHALLENGER], execution_timeout=timedelta(hours=2))
    def register(snapshot_id: str, chosen: dict, trained: dict) -> int:
        from fracture_ml.steps import register as step
        from fracture_ml.steps.context import open_context
        from fracture_ml.steps.settings import load_settings

        settings = load_settings()
        return step.evaluate_and_register(
            open_context(settings),
            settings,
            snapshot_id=snapshot_id,
            study_name=chosen["study_name"],
            trained=trained,
        )

    snapshot_id = freeze_snapshot()
    chosen = choose_recipe(tune.expand(share=share_out(snapshot_id)))
    register(snapshot_id, chosen, train(snapshot_id, chosen))


retrain_nightly()
