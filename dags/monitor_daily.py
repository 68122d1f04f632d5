"""# Monitor daily

06:00 UTC: drift of scores and inputs against the training snapshot; live sensitivity and specificity from the final
reads of 90 days (with intervals, or "not enough data"; an alert where they exclude the target); overdue items and stuck
work. A row in `fracture.drift_report`, open alerts in `fracture.alert`.

**When an alert is open:** it stands on the worklist page and in `fracture.alert` until the cause is gone.
"""

from airflow.sdk import CronTriggerTimetable, dag, task
from fracture_dag_defaults import DAG_DEFAULTS, FIRST_RUN_WITHIN


@dag(
    schedule=CronTriggerTimetable("0 6 * * *", timezone="UTC", run_immediately=FIRST_RUN_WITHIN),
    doc_md=__doc__,
    tags=["fracture", "monitor"],
    **DAG_DEFAULTS,
)
def monitor_daily():
    @task
    def write_report(dag_run=None) -> dict:
        from fracture_ml.steps import monitor
        from fracture_ml.steps.context import open_context
        from fracture_ml.steps.settings import load_settings

        return monitor.write_report(open_context(), load_settings(), at=dag_run.run_after)

    write_report()


monitor_daily()
