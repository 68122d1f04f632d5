"""What the five DAGs share: defaults, retries, pools, assets. Belongs to Airflow, not to fractures."""

from datetime import timedelta

from airflow.sdk import Asset, ExceptionRetryPolicy, RetryAction, RetryRule

# Doorbells: the consumer asks Postgres what is to do. Nothing is read from an event.
RADIOGRAPHS = Asset("fracture_radiographs", uri="fracture://radiographs")
CHALLENGER = Asset("fracture_challenger", uri="fracture://challenger")
CHAMPION = Asset("fracture_champion", uri="fracture://champion")

# Made at start-up by the stack and by the compose file's init service; a task in a pool that is absent never runs.
GPU_POOL = "gpu"
SCORING_POOL = "scoring"

# What a repetition can mend is repeated; what it cannot fails at once, with its sentence.
RETRY_POLICY = ExceptionRetryPolicy(
    rules=[
        RetryRule(exception="fracture_ml.core.errors.StorageUnavailable", action=RetryAction.RETRY),
        RetryRule(exception="fracture_ml.core.errors.DatabaseUnavailable", action=RetryAction.RETRY),
        RetryRule(exception="fracture_ml.core.errors.CacheCorrupt", action=RetryAction.RETRY),
        RetryRule(exception="fracture_ml.core.errors.NotReconciled", action=RetryAction.RETRY),
        RetryRule(exception="fracture_ml.core.errors.FractureError", action=RetryAction.FAIL),
    ],
    default=RetryAction.DEFAULT,
)

# A DAG that is switched on starts at its next time, not with the night that went by. A `start_date` in the past would
# start that one at once; within this time after a tick it still counts, so that no first run is lost to a parse.
FIRST_RUN_WITHIN = timedelta(minutes=5)

DAG_DEFAULTS = {
    "catchup": False,
    "max_active_runs": 1,
    "default_args": {
        "owner": "fracture",
        "retries": 3,
        "retry_delay": timedelta(seconds=20),
        "retry_exponential_backoff": 2.0,
        "max_retry_delay": timedelta(minutes=10),
        "retry_policy": RETRY_POLICY,
        # Short tasks take seconds to minutes, and none waits longer than five minutes for a lock; what may take longer
        # says so where it stands. A task that hangs holds up every later run of its DAG.
        "execution_timeout": timedelta(hours=1),
    },
}
