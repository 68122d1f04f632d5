"""Parses dags/ as the dag-processor does, and prints what a test wants to know as JSON. Run as a program."""

import json
import os
import sys
import time
from pathlib import Path

HEAVY = ("torch", "torchvision", "boto3", "optuna", "psycopg2", "fracture_ml.stores")


def main(dags_folder: Path) -> dict:
    import airflow.providers.standard.operators.hitl
    import airflow.sdk  # noqa: F401  Airflow's own import is not the DAG file's
    from airflow.dag_processing.dagbag import DagBag
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.serialization.serialized_objects import DagSerialization

    already = set(sys.modules)
    report = {"errors": {}, "dags": {}, "seconds": {}}
    for path in sorted(dags_folder.glob("*.py")):
        started = time.perf_counter()
        bag = DagBag(path)
        report["seconds"][path.name] = time.perf_counter() - started
        report["errors"] |= {Path(name).name: error for name, error in bag.import_errors.items()}
        for dag in bag.dags.values():
            report["dags"][dag.dag_id] = {
                "file": path.name,
                "doc": dag.doc_md,
                "tags": sorted(dag.tags),
                "time_limits_h": {
                    task.task_id: task.execution_timeout and task.execution_timeout.total_seconds() / 3600
                    for task in dag.tasks
                },
                "pools": sorted({task.pool for task in dag.tasks}),
                "undescribed_params": [
                    name for name, param in dag.params.items() if not dag.params.get_param(name).description
                ],
                # What Airflow itself compares: another hash makes another version of the DAG.
                "hash": SerializedDagModel.hash(DagSerialization.to_dict(dag)),
            }
    report["imported"] = sorted(name for name in HEAVY if name in sys.modules and name not in already)
    return report


if __name__ == "__main__":
    os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
    print(json.dumps(main(Path(sys.argv[1]))))
