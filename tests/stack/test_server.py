"""The compose file's server, without containers: a login with real users (FAB), and Celery workers behind a broker.

Two workers have nothing in common but Postgres, S3, the broker and the api-server, as on two machines.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from fracture_ml.core.errors import StackError
from fracture_ml.demo.airflow_runs import logged_in
from fracture_ml.demo.dataset import write_inbox
from fracture_ml.stack.program import wait_until
from fracture_ml.steps import keys
from tests.stack.composed import ADMIN_PASSWORD, Server, kill, running_server

pytestmark = pytest.mark.timeout(900)
_WAIT_S = 240.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    with running_server(tmp_path_factory.mktemp("server")) as server:
        yield server


def _logged_in(server: Server, username: str, password: str) -> AbstractContextManager[httpx.Client]:
    return logged_in(url=server.url, username=username, password=password)


def test_init_can_be_repeated_and_takes_nobodys_password_away(server: Server):
    variables = server.services.variables | {"AIRFLOW_ADMIN_PASSWORD": "another one"}
    again = replace(server.services, variables=variables).run("init")
    assert again.returncode == 0, again.stdout + again.stderr
    with _logged_in(server, "admin", ADMIN_PASSWORD):
        pass
    with pytest.raises(StackError, match="401"), _logged_in(server, "admin", "another one"):
        pass


@pytest.mark.parametrize("service", ["api-server", "scheduler", "dag-processor", "triggerer", "worker"])
def test_a_service_that_works_is_healthy(server: Server, service: str):
    wait_until(
        lambda: server.services.healthcheck(service).returncode == 0,
        timeout_s=_WAIT_S,
        sentence=f"{service} is not healthy",
    )


def test_who_may_read_act_and_approve(server: Server):
    """Airflow's own roles, and that of docs/operations.md for readers who must not decide about models."""
    with _logged_in(server, "admin", ADMIN_PASSWORD) as admin:
        viewers = admin.get("/auth/fab/v1/roles/Viewer").json()["actions"]
        added = [("can_create", "DAG Runs"), ("can_edit", "DAG:score_hourly")]
        readers = [{"action": {"name": action}, "resource": {"name": resource}} for action, resource in added]
        made = admin.post("/auth/fab/v1/roles", json={"name": "Reader", "actions": viewers + readers})
        assert made.status_code == 200, made.text
        for role in ("Viewer", "Reader", "User"):
            name = {"username": f"a.{role}", "first_name": "A", "last_name": role, "email": f"{role}@hospital.example"}
            made = admin.post("/auth/fab/v1/users", json={**name, "password": "of theirs", "roles": [{"name": role}]})
            assert made.status_code == 200, made.text
    assert httpx.get(f"{server.url}/fracture-worklist/api/open", timeout=30).status_code == 401
    found = {role: _what_may(server, f"a.{role}") for role in ("Viewer", "Reader", "User")}
    assert found["Viewer"] == {"look": True, "act": False, "promote": False, "approve": False}
    assert found["Reader"] == {"look": True, "act": True, "promote": False, "approve": False}
    assert found["User"] == {"look": True, "act": True, "promote": True, "approve": True}


def _what_may(server: Server, name: str) -> dict[str, bool]:
    """Asked for by a person of this name, of things that are not there where it would change one."""
    header = {"X-Fracture-Worklist": "1", "Content-Type": "application/json"}
    with _logged_in(server, name, "of theirs") as person:
        looked = person.get("/fracture-worklist/api/open")
        acted = person.post("/fracture-worklist/api/items/none/close", content='{"row_version": 1}', headers=header)
        assert acted.status_code in (403, 404), acted.text
        assert person.get("/fracture-worklist/api/me").json() == {"name": name, "may_act": acted.status_code == 404}
        promoted = person.post(
            "/api/v2/dags/promote_model/dagRuns", json={"logical_date": None, "conf": {"version": 0}}
        )
        question = "/api/v2/dags/promote_model/dagRuns/none/taskInstances/approve/-1/hitlDetails"
        approved = person.patch(question, json={"chosen_options": ["Approve"], "params_input": {}})
    return {
        "look": looked.status_code == 200,
        "act": acted.status_code != 403,
        "promote": promoted.status_code != 403,
        "approve": approved.status_code != 403,
    }


def test_the_broker_may_be_lost_with_all_that_it_holds(server: Server):
    """Workers that no longer listen after that are an old fault of Celery; nothing would tell of it."""
    kill(server.running["redis"])
    server.running["redis"] = server.start_redis()
    with server.airflow() as airflow:
        airflow.unpause("monitor_daily")
        run_id = airflow.trigger("monitor_daily")
        assert airflow.follow("monitor_daily", run_id, timeout_s=_WAIT_S, on_look=lambda _: None) == "success"


def test_the_main_job_goes_on_on_another_machine_when_the_one_that_trains_dies(server: Server, tmp_path: Path):
    facts = write_inbox(tmp_path / "drawn", patients=45, seed=11)
    for path in (path for path in (tmp_path / "drawn").rglob("*") if path.is_file()):
        server.bucket.write(f"inbox/{path.relative_to(tmp_path).as_posix()}", path.read_bytes())
    work = {"preset": "demo", "folds": 2, "tuning_image_size_px": 32, "tuning_epochs": 1, "trials": 1, "force": True}
    work |= {"epochs": 3, "image_size_px": 32}
    with server.airflow() as airflow:

        def run(dag_id: str, conf: dict | None = None, meanwhile: Callable[[], None] = lambda: None) -> dict[str, int]:
            """To its good end; how often each of its tasks was tried."""
            airflow.unpause(dag_id)
            run_id = airflow.trigger(dag_id, conf)
            meanwhile()
            looks: list = []
            state = airflow.follow(dag_id, run_id, timeout_s=_WAIT_S, on_look=looks.append)
            assert state == "success", looks[-1]
            return {look.task_id: look.try_number for look in looks[-1]}

        def lose_the_machine_that_trains() -> None:
            wait_until(lambda: bool(_checkpoints(server)), timeout_s=_WAIT_S, sentence="no checkpoint is written")
            kill(server.running["gpu-machine-1"])
            server.running["gpu-machine-2"] = server.services.start("worker-cpu", machine="gpu-machine-2")

        run("ingest_radiographs")
        assert server.rows("SELECT count(*) FROM fracture.received_object") == [(facts.files,)]
        tries = run("retrain_nightly", work, lose_the_machine_that_trains)
        assert (tries["tune"], tries["train"], tries["register"]) == (1, 2, 1)
        assert "The training goes on from its checkpoint" in server.task_logs()
        assert _checkpoints(server) == []
        # Three epochs may not pass the gate: here a person decides, in a container.
        decided = server.services.run("worker", ["fracture", "promote", "1", "--actor", "a test"])
        assert decided.returncode == 0, decided.stderr
        run("score_hourly")
    counts = server.rows("SELECT count(*), count(*) FILTER (WHERE images_unscored = 0) FROM fracture.worklist_open")
    assert counts[0][0] == counts[0][1] > 40


def _checkpoints(server: Server) -> list[str]:
    return [found.key for found in server.bucket.list(f"{keys.TRAININGS}/") if found.key.endswith(keys.CHECKPOINT)]
