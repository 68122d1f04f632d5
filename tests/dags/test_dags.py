"""The DAG files: parsed as the dag-processor does, in a process of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LISTED = {"ingest_radiographs", "retrain_nightly", "promote_model", "score_hourly", "monitor_daily"}
KNOWN_POOLS = {"default_pool", "gpu", "scoring"}


def parse(home: Path) -> dict:
    return run("parse_dags.py", home)


def run(program: str, home: Path, *arguments: str) -> dict:
    environment = os.environ | {"AIRFLOW_HOME": str(home), "PYTHONPATH": f"{ROOT / 'plugins'}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, ROOT / "tests/dags" / program, ROOT / "dags", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("airflow")


@pytest.fixture(scope="module")
def report(home: Path) -> dict:
    return parse(home)


def test_every_dag_file_parses(report):
    assert report["errors"] == {}


def test_the_dags_are_the_five_that_are_listed_and_each_is_named_like_its_file(report):
    assert set(report["dags"]) == LISTED
    assert all(dag["file"] == f"{dag_id}.py" for dag_id, dag in report["dags"].items())


def test_every_dag_has_a_runbook_and_the_products_tag(report):
    for dag_id, dag in report["dags"].items():
        assert dag["doc"].startswith("# "), dag_id
        assert "fracture" in dag["tags"], dag_id


def test_every_parameter_of_a_trigger_form_is_described(report):
    assert {dag_id: dag["undescribed_params"] for dag_id, dag in report["dags"].items()} == {
        dag_id: [] for dag_id in LISTED
    }


def test_every_pool_is_one_that_the_stack_makes(report):
    from fracture_setup_airflow import POOLS

    assert set(POOLS) | {"default_pool"} == KNOWN_POOLS
    assert all(set(dag["pools"]) <= KNOWN_POOLS for dag in report["dags"].values())


def test_every_task_ends_within_an_hour_or_says_how_long_it_takes_but_a_person_has_their_own_time(report):
    limits = {
        f"{dag_id}.{task}": hours
        for dag_id, dag in report["dags"].items()
        for task, hours in dag["time_limits_h"].items()
    }
    assert {task: hours for task, hours in limits.items() if hours != 1} == {
        "ingest_radiographs.ingest": 3,
        "promote_model.approve": None,
        "retrain_nightly.tune": 30,
        "retrain_nightly.train": 24,
        "retrain_nightly.register": 2,
        "score_hourly.score_batch": 2,
    }


def test_parsing_imports_nothing_heavy_and_is_quick(report):
    assert report["imported"] == []
    assert max(report["seconds"].values()) < 0.5


def test_two_parses_make_one_version_of_each_dag(report, home):
    again = parse(home)
    assert {name: dag["hash"] for name, dag in again["dags"].items()} == {
        name: dag["hash"] for name, dag in report["dags"].items()
    }


@pytest.mark.parametrize(
    ("failing", "ended", "states"),
    [
        ("score_batch 6", "failed", {"score_batch 0": "failed", "score_batch 1": "success", "reconcile": "success"}),
        ("plan_scoring", "failed", {"plan_scoring": "failed", "reconcile": "skipped"}),
        ("reconcile", "failed", {"reconcile": "failed", "score_batch 1": "success"}),
        ("nothing is due", "success", {"score_batch": "skipped", "reconcile": "success"}),
        ("void 6", "success", {"score_batch 0": "success", "score_batch 1": "success", "reconcile": "success"}),
    ],
)
def test_a_scoring_run_lists_and_reconciles_whatever_fails_and_is_green_only_where_nothing_did(
    tmp_path, failing, ended, states
):
    told = run("score_with_failures.py", tmp_path, failing)
    assert (told["run"], told["states"]["rank_worklist"]) == (ended, "success")
    assert told["states"].items() >= states.items()
    scored = sorted(named["first"] for name, named in told["done"] if name == "score_batch")
    assert scored == {"plan_scoring": [], "nothing is due": [], "void 6": [1]}.get(failing, [1, 6])
    assert ["plan_scoring", {"retry_unscored": "altered"}] in told["done"]
    did = [name for name, _ in told["done"]]
    assert (
        did.count("rank_worklist") == len(scored) - (failing == "score_batch 6") + 1
    )  # after each batch, and at the end
    assert did.count("watch") == 1
    plan = {"version": 2, "champion": 3, "through": 9}
    assert ["reconcile", plan] in told["done"] or failing == "plan_scoring"


@pytest.mark.parametrize(
    ("answer", "done"),
    [
        ("Approve", [["promoted", 7, "dr"]]),
        ("Reject", [["promote skipped"], ["refused", 7, "dr"]]),
    ],
)
def test_what_a_person_answers_reaches_the_history(home, answer, done):
    """A refusal that nobody finds in the history is asked about again, and may be approved."""
    assert run("answer_promotion.py", home, answer) == {"done": done, "rule": "none_failed"}
