"""Answers the question of promote_model in Airflow's own operator, and prints what the tasks behind it do."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace


def main(dags_folder: Path, answer: str) -> dict:
    from airflow.dag_processing.dagbag import DagBag
    from airflow.sdk.exceptions import AirflowSkipException

    from fracture_ml.steps import context, promote, settings

    tasks = {task.task_id: task for task in DagBag(dags_folder / "promote_model.py").dags["promote_model"].tasks}
    done: list[list] = []
    context.open_context = lambda *_: None
    settings.load_settings = lambda: SimpleNamespace(promotion="approval")
    promote.promote_judged = lambda *_, version, user: done.append(["promoted", version, user])
    promote.record_refusal = lambda *_, version, user, **__: done.append(["refused", version, user])
    event = {
        "chosen_options": [answer],
        "params_input": {},
        "responded_at": datetime.now(UTC),
        "responded_by_user": {"id": "1", "name": "dr"},
    }
    response = tasks["approve"].execute_complete({}, event)  # what is pushed for the tasks behind it
    ti, judged = SimpleNamespace(xcom_pull=lambda task_ids: response), {"version": 7, "times_promoted": 0}
    for task_id in ("promote", "record_refusal"):
        try:
            tasks[task_id].python_callable(judged, ti=ti)
        except AirflowSkipException:
            done.append([f"{task_id} skipped"])
    return {"done": done, "rule": tasks["record_refusal"].trigger_rule}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2])))
