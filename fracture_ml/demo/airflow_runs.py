"""Drives Airflow as a person would, through its REST API: unpause, trigger, watch."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from typing import Any

import httpx

from fracture_ml.core.errors import StackError

_FINISHED = ("success", "failed")
_SECONDS_BETWEEN_LOOKS = 1.0
_LOOKS_PER_LOG = 3  # how a task stands, and its log, cost the api-server processor time that the training needs


@dataclass(frozen=True, kw_only=True)
class TaskLook:
    """One task instance as it stands now."""

    task_id: str
    map_index: int
    state: str
    try_number: int
    last_line: str


class AirflowRuns:
    """A session with one Airflow api-server. The HTTP client is passed in, already authenticated."""

    def __init__(self, client: httpx.Client):
        self._client = client

    def unpause(self, dag_id: str, *, timeout_s: float = 90.0) -> None:
        """Switch a DAG on; waits until the dag-processor has found it. Raises: StackError."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            response = self._client.patch(f"/api/v2/dags/{dag_id}", json={"is_paused": False})
            if response.status_code == 200:
                return
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        raise StackError(f"Airflow does not know the DAG {dag_id}: look at `airflow dags list-import-errors`")

    def trigger(self, dag_id: str, conf: dict[str, Any] | None = None) -> str:
        """Start a run by hand; returns its id."""
        return self._json("POST", f"/api/v2/dags/{dag_id}/dagRuns", json={"logical_date": None, "conf": conf or {}})[
            "dag_run_id"
        ]

    def is_due(self, dag_id: str) -> bool:
        """Whether the schedule starts a run of the DAG at once, now that it is switched on."""
        due = self._json("GET", f"/api/v2/dags/{dag_id}")["next_dagrun_run_after"]
        return due is not None and datetime.fromisoformat(due) <= datetime.now(UTC)

    def find_run_since(self, dag_id: str, since: datetime) -> str | None:
        """The earliest run of the DAG that was queued at or after `since`."""
        return next(self._run_ids(dag_id, run_after_gte=since.astimezone(UTC).isoformat()), None)

    def find_active_run(self, dag_id: str, *, but: str | None = None) -> str | None:
        """The oldest run of the DAG that is under way, another than `but`."""
        active = self._run_ids(dag_id, state=["queued", "running"])
        return next((run_id for run_id in active if run_id != but), None)

    def follow(self, dag_id: str, run_id: str, *, timeout_s: float, on_look: Callable[[list[TaskLook]], None]) -> str:
        """Look at a run until it has finished; returns its state. Raises: StackError: not finished in time."""
        deadline = time.monotonic() + timeout_s
        for look in count():
            state = self._json("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}")["state"]
            if state in _FINISHED or look % _LOOKS_PER_LOG == 0:
                on_look(list(self._look(dag_id, run_id)))
            if state in _FINISHED:
                return state
            if time.monotonic() > deadline:
                break
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        raise StackError(
            f"The run {run_id} of {dag_id} has not finished in {timeout_s:.0f} s, and goes on: look at it in the UI."
        )

    def _run_ids(self, dag_id: str, **filters: Any) -> Iterator[str]:
        """The oldest runs of the DAG that the filters let through, at most ten."""
        params = {**filters, "order_by": "run_after", "limit": 10}
        for run in self._json("GET", f"/api/v2/dags/{dag_id}/dagRuns", params=params)["dag_runs"]:
            yield run["dag_run_id"]

    def _look(self, dag_id: str, run_id: str) -> Iterator[TaskLook]:
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances"
        for task in self._json("GET", path)["task_instances"]:
            last_line = ""
            if task["state"] in ("running", "failed", "up_for_retry") and task["try_number"]:
                last_line = self._last_line(f"{path}/{task['task_id']}/logs/{task['try_number']}", task["map_index"])
            yield TaskLook(
                task_id=task["task_id"],
                map_index=task["map_index"],
                state=task["state"] or "waiting",
                try_number=task["try_number"],
                last_line=last_line,
            )

    def _last_line(self, path: str, map_index: int) -> str:
        """The newest line that the product itself logged, or the newest error."""
        response = self._client.get(path, params={"map_index": map_index}, headers={"Accept": "application/json"})
        if response.status_code != 200:
            return ""
        lines = [entry for entry in response.json()["content"] if isinstance(entry, dict)]
        ours = [
            entry
            for entry in lines
            if str(entry.get("logger", "")).startswith("fracture_ml") or entry.get("level") in ("error", "critical")
        ]
        return str(ours[-1]["event"]) if ours else ""

    def _json(self, method: str, path: str, **kwargs: Any) -> Any:
        response = self._client.request(method, path, **kwargs)
        if response.status_code >= 400:
            raise StackError(f"Airflow answered {response.status_code} to {method} {path}: {response.text[:300]}")
        return response.json()


@contextmanager
def airflow_session(*, url: str, username: str, password: str) -> Iterator[AirflowRuns]:
    """Log in. Raises: StackError: Airflow refuses the password."""
    with logged_in(url=url, username=username, password=password) as client:
        yield AirflowRuns(client)


@contextmanager
def logged_in(*, url: str, username: str, password: str) -> Iterator[httpx.Client]:
    """A client of this user's. Raises: StackError: Airflow refuses the password."""
    with httpx.Client(base_url=url, timeout=30.0) as client:
        response = client.post("/auth/token", json={"username": username, "password": password})
        if response.status_code not in (200, 201):
            raise StackError(
                f"Airflow at {url} refuses the user {username} ({response.status_code}): "
                "look at airflow/passwords.json in the stack's folder."
            )
        client.headers["Authorization"] = f"Bearer {response.json()['access_token']}"
        yield client
