"""# Promote a model

Runs when a challenger is registered. The gate compares it with the champion on the same locked test groups
(sensitivity, AUROC, subgroups, calibration, the bundle's hash, leakage), and writes a verdict with its figures. A
challenger that fails is rejected. One that passes waits for a person under **Required Actions** (Approve or Reject
within 7 days; no answer is a rejection), or goes through by itself where `FRACTURE_PROMOTION=automatic`. The
champion's pointer moves; nothing is deleted.

**When it fails.** `StaleVerdict`: while the approval waited, another version became champion, and this one was not
compared with it. Trigger this DAG with its number in *version*: it is judged anew, and asked about again.
`AlreadyPromoted`: a Reject, a person's or the gate's, came after this very version had been made champion, as by
`fracture promote`. It is not recorded, and the version goes on scoring: roll back, if it is not to. Where nobody
answered in time, that is logged, and no failure.

**Roll back:** `fracture roll-back --actor "..." --reason "..."`. **History:** `sql/queries/model_history.sql`.
"""

from datetime import timedelta

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Param, TriggerRule, chain, dag, task
from fracture_dag_defaults import CHALLENGER, CHAMPION, DAG_DEFAULTS


@dag(
    schedule=[CHALLENGER],
    doc_md=__doc__,
    tags=["fracture", "train"],
    params={
        "version": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            description="The version to judge; empty: the newest without a decision.",
        )
    },
    # An approval may wait for days, and must not hold up the next challenger.
    **(DAG_DEFAULTS | {"max_active_runs": 8}),
)
def promote_model():
    @task
    def judge(params=None) -> dict:
        from airflow.sdk.exceptions import AirflowSkipException

        from fracture_ml.steps import promote
        from fracture_ml.steps.context import open_context
        from fracture_ml.steps.settings import load_settings

        stores = open_context()
        version = params["version"] or promote.find_undecided(stores)
        if version is None:
            raise AirflowSkipException("No challenger waits for a decision.")
        return promote.judge_challenger(stores, load_settings(), version=version)

    @task.branch
    def decide(judged: dict) -> str:
        from fracture_ml.steps.settings import load_settings

        if not judged["passed"]:
            return "reject"
        return "promote" if load_settings().promotion == "automatic" else "approve"

    @task
    def reject(judged: dict) -> None:
        from fracture_ml.steps import promote
        from fracture_ml.steps.context import open_context

        promote.reject(
            open_context(),
            version=judged["version"],
            actor="gate",
            reason="the gate's verdict",
            times_promoted=judged["times_promoted"],
        )

    # Not Airflow's ApprovalOperator: its Reject skips what follows and leaves no answer behind, not even whose it was.
    approve = HITLOperator(
        task_id="approve",
        options=["Approve", "Reject"],
        subject="Promote model version {{ ti.xcom_pull(task_ids='judge')['version'] }}?",
        body="{{ ti.xcom_pull(task_ids='judge')['summary'] }}",
        defaults="Reject",
        response_timeout=timedelta(days=7),
        execution_timeout=None,  # the default is for work; a person's answer has its own limit, above
    )

    @task(trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS, outlets=[CHAMPION])
    def promote(judged: dict, ti=None) -> int:
        from airflow.sdk.exceptions import AirflowSkipException

        from fracture_ml.steps import promote as steps
        from fracture_ml.steps.context import open_context
        from fracture_ml.steps.settings import load_settings

        response, settings = ti.xcom_pull(task_ids="approve"), load_settings()
        if response and response["chosen_options"] == ["Reject"]:
            raise AirflowSkipException("It was not approved.")
        user = response["responded_by_user"]["name"] if response else None
        return steps.promote_judged(open_context(settings), settings, version=judged["version"], user=user)

    @task(trigger_rule=TriggerRule.NONE_FAILED)
    def record_refusal(judged: dict, ti=None) -> None:
        """A person's Reject, or no answer in time, goes into our own history."""
        from fracture_ml.steps import promote as steps
        from fracture_ml.steps.context import open_context

        response = ti.xcom_pull(task_ids="approve")
        if response and response["chosen_options"] == ["Reject"]:
            user = response.get("responded_by_user")
            steps.record_refusal(
                open_context(),
                version=judged["version"],
                user=user["name"] if user else None,
                times_promoted=judged.get("times_promoted"),  # a question of older code does not say it
            )

    judged = judge()
    branch = decide(judged)
    promoted = promote(judged)
    chain(branch, approve, promoted, record_refusal(judged))
    branch >> [promoted, reject(judged)]


promote_model()
