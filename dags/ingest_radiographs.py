"""# Ingest radiographs

Every 10 minutes: what is new in the bucket's inbox is fetched, checked, de-identified, fingerprinted, stored under
its hash and recorded. Label files are read first. What cannot be used is quarantined with a code and a sentence; one
bad object never stops the rest. New studies go on the worklist at once, as "AI unavailable" until they are scored.

**When it fails.** `StorageUnavailable` or `DatabaseUnavailable`: it is repeated by itself; look at the servers.
`NotReconciled`: an object has no outcome; run it again, and look at the task's log if that does not help.

**What could not be used:** `SELECT code, count(*) FROM fracture.quarantine GROUP BY code`. After a change of settings
(`FRACTURE_MAX_PIXELS`, ...), trigger it with a code in *Retry quarantined*.
"""

from datetime import timedelta

from airflow.sdk import CronTriggerTimetable, Param, dag, task
from fracture_dag_defaults import DAG_DEFAULTS, FIRST_RUN_WITHIN, RADIOGRAPHS


@dag(
    schedule=CronTriggerTimetable("*/10 * * * *", timezone="UTC", run_immediately=FIRST_RUN_WITHIN),
    doc_md=__doc__,
    tags=["fracture", "data"],
    params={
        "threads": Param(
            4,
            type="integer",
            minimum=1,
            maximum=64,
            title="Threads",
            description="How many objects are fetched and checked side by side.",
        ),
        "retry_quarantined": Param(
            None,
            type=["null", "string"],
            pattern="^[a-z0-9_]+$",
            maxLength=64,
            title="Retry quarantined",
            description="A code of the quarantine, whose objects are looked at anew, as after a change of settings.",
        ),
    },
    **DAG_DEFAULTS,
)
def ingest_radiographs():
    @task(execution_timeout=timedelta(hours=3))
    def ingest(params=None) -> dict:
        from fracture_ml.steps.context import open_context
        from fracture_ml.steps.ingest import ingest_inbox
        from fracture_ml.steps.settings import load_settings

        settings = load_settings()
        return ingest_inbox(
            open_context(settings),
            settings,
            threads=params["threads"],
            retry_quarantined=params["retry_quarantined"],
        )

    @task(outlets=[RADIOGRAPHS])
    def list_arrivals(counts: dict) -> dict:
        """New studies are on the worklist before they are scored. Rings the bell for the scoring; skipped, it does not.

        What is not listed yet counts, and not only what this attempt of the ingest took in.
        """
        from airflow.sdk.exceptions import AirflowSkipException

        from fracture_ml.steps.context import open_context
        from fracture_ml.steps.settings import load_settings
        from fracture_ml.steps.worklist import rank_worklist

        settings = load_settings()
        listed = rank_worklist(open_context(settings), settings, arrivals_only=True)
        if not counts["radiograph"] and listed == {"ranked": 0}:
            raise AirflowSkipException("No radiograph is new.")
        return listed

    list_arrivals(ingest())


ingest_radiographs()
