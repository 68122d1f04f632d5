"""Runs score_hourly in Airflow's own dag.test, where tasks that are named fail, and prints how each of them ended."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

PLAN = {"version": 2, "champion": 3, "through": 9}


def main(dags_folder: Path, *failing: str) -> dict:
    from airflow.dag_processing.dagbag import DagBag
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.db import initdb
    from airflow.utils.session import create_session
    from sqlalchemy import select

    from fracture_ml.core.errors import OutOfMemory
    from fracture_ml.steps import context, monitor, score, scoring_run, settings, worklist

    done: list[list] = []

    def step(name: str, result):
        def called(*_, **named):
            done.append(
                [name, {key: value for key, value in named.items() if key in ("first", "retry_unscored", *PLAN)}]
            )
            if name in failing or f"{name} {named.get('first')}" in failing:
                raise OutOfMemory(name)
            return result

        return called

    context.open_context = lambda *_: SimpleNamespace()
    settings.load_settings = lambda: None
    monitor.watch = step("watch", None)
    scoring_run.is_void = lambda *_, **named: f"void {named['first']}" in failing
    scoring_run.plan_scoring = step("plan_scoring", PLAN)
    batches = [{**PLAN, "first": first, "last": first + 3} for first in (6, 1)]
    scoring_run.cut_batches = step("cut_batches", [] if "nothing is due" in failing else batches)
    scoring_run.reconcile = step("reconcile", {})
    score.score_batch = step("score_batch", {})
    worklist.rank_worklist = step("rank_worklist", {})

    initdb()
    dag = DagBag(dags_folder / "score_hourly.py").dags["score_hourly"]
    for task in dag.tasks:
        task.retries = 0
    run = dag.test(run_conf={"retry_unscored": "altered"})
    with create_session() as session:
        ended = session.execute(select(TaskInstance.task_id, TaskInstance.map_index, TaskInstance.state)).all()
    states = {task if index < 0 else f"{task} {index}": state for task, index, state in ended}
    return {"run": run.state, "states": states, "done": done}


if __name__ == "__main__":
    os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
    os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = sys.argv[1]
    print(json.dumps(main(Path(sys.argv[1]), *sys.argv[2:])))
