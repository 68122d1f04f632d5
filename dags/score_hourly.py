"""# Score hourly

Hourly, and when radiographs arrive or the champion changes: everything that the champion has no outcome for is scored
in batches, the newest first, and highlighted; what arrives meanwhile goes before the rest. After each batch its studies
are put on the worklist by urgency. Exactly one outcome per radiograph, a score or a reason; the run fails where the
counts do not add up or a task failed. Without a champion the studies are listed as "AI unavailable", and the run
succeeds. Where another version becomes the champion meanwhile, by a promotion or a roll-back, the run begins nothing
more and succeeds: the next one, within the hour, scores by that version.

Each task claims blocks of radiographs, so that any number of them, and of machines, share one backlog; one that dies
leaves its blocks to the others. While Postgres or the bucket is away, a task tries again for two minutes by itself.

**When it fails.** `NotReconciled`: the log of `reconcile` names what is missing, and that of the batches that failed
says why; its repetitions only count again, and the next run scores what is left. An alert "bundle": the champion's file
is not what was registered, or this code cannot read it; the champion before it scores meanwhile, and its rows and the
worklist name it. `BundleMismatch`: this run found that the file cannot be read, and the next one scores with the
champion before; or there is none before it. Restore the file, put the code that wrote it in place, or
`fracture roll-back`. An alert "unscored": images have a reason in place of a score; once it is mended, *Retry unscored*
in the trigger form, with the reason's code, scores them.

**The list:** `SELECT * FROM fracture.worklist_open`.
"""

from datetime import timedelta

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import AssetOrTimeSchedule, CronTriggerTimetable, Param, TriggerRule, dag, task
from fracture_dag_defaults import CHAMPION, DAG_DEFAULTS, FIRST_RUN_WITHIN, RADIOGRAPHS, SCORING_POOL


@dag(
    schedule=AssetOrTimeSchedule(
        timetable=CronTriggerTimetable("0 * * * *", timezone="UTC", run_immediately=FIRST_RUN_WITHIN),
        assets=(RADIOGRAPHS | CHAMPION),
    ),
    doc_md=__doc__,
    tags=["fracture", "score"],
    params={
        "batch_size": Param(
            2000,
            type="integer",
            minimum=1,
            maximum=100_000,
            description="Radiographs per task. Each task is one process that loads the model once.",
        ),
        "retry_unscored": Param(
            None,
            type=["null", "string"],
            pattern="^[a-z0-9_]+$",
            maxLength=64,
            title="Retry unscored",
            description="A code of the alert `unscored` (not_readable, altered, out_of_memory): what has this reason "
            "in place of a score is scored anew.",
        ),
    },
    **DAG_DEFAULTS,
)
def score_hourly():
    @task
    def plan_scoring(params=None) -> dict:
        from fracture_ml.steps import scoring_run
        from fracture_ml.steps.context import open_context

        return scoring_run.plan_scoring(open_context(), retry_unscored=params["retry_unscored"])

    @task
    def cut_batches(plan: dict, params=None) -> list[dict]:
        from fracture_ml.steps import scoring_run
        from fracture_ml.steps.context import open_context

        return scoring_run.cut_batches(open_context(), batch_size=params["batch_size"], **plan)

    @task(pool=SCORING_POOL, queue="gpu", map_index_template="{{ batch_name }}", execution_timeout=timedelta(hours=2))
    def score_batch(batch: dict) -> dict:
        from airflow.sdk import get_current_context

        from fracture_ml.steps import scoring_run, worklist
        from fracture_ml.steps.context import open_context
        from fracture_ml.steps.settings import load_settings

        get_current_context()["batch_name"] = f"{batch['first']}-{batch['last']}"
        settings = load_settings()
        stores = open_context(settings)
        if scoring_run.is_void(stores, **batch):
            return {}
        from fracture_ml.steps import score  # with torch: hundreds of batches that are void end without it

        counts = score.score_batch(stores, settings, **batch)
        worklist.rank_worklist(stores, settings, version=batch["version"])
        return counts

    @task(trigger_rule=TriggerRule.ALL_DONE)
    def reconcile(plan: dict | None) -> dict:
        """Also when a batch failed: it names what has no outcome. Without a plan nothing is known to be owed."""
        from airflow.sdk.exceptions import AirflowSkipException

        from fracture_ml.steps import scoring_run
        from fracture_ml.steps.context import open_context

        if plan is None:
            raise AirflowSkipException("nothing was planned")
        return scoring_run.reconcile(open_context(), **plan)

    @task(trigger_rule=TriggerRule.ALL_DONE)
    def rank_worklist(plan: dict | None) -> dict:
        """Also when a batch failed: what could not be scored must be on the list. The alerts are those of this hour."""
        from datetime import UTC, datetime

        from fracture_ml.steps import monitor, worklist
        from fracture_ml.steps.context import open_context
        from fracture_ml.steps.settings import load_settings

        settings = load_settings()
        stores = open_context(settings)
        ranked = worklist.rank_worklist(stores, settings, version=plan["version"] if plan else None)
        monitor.watch(stores, at=datetime.now(UTC))
        return ranked

    plan = plan_scoring()
    scored = score_batch.expand(batch=cut_batches(plan))
    ended = [reconcile(plan), rank_worklist(plan)]
    # A run ends as its last task does: what is done whatever happened must not make one green that failed.
    conclude = EmptyOperator(task_id="conclude", trigger_rule=TriggerRule.NONE_FAILED)
    scored >> ended >> conclude
    scored >> conclude


score_hourly()
