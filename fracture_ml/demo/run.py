"""The main job on one machine: servers up, radiographs in, and five DAGs through Airflow's scheduler."""

import hashlib
import mimetypes
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console

from fracture_ml import stack
from fracture_ml.core.errors import InvalidSettings, StackError
from fracture_ml.demo.airflow_runs import AirflowRuns, TaskLook, airflow_session
from fracture_ml.demo.dataset import MANIFEST, write_inbox
from fracture_ml.steps.context import open_context
from fracture_ml.steps.presets import plan_of
from fracture_ml.steps.report import counts_table, metrics_table, quarantine_table, worklist_table
from fracture_ml.steps.settings import load_settings
from fracture_ml.stores import Stores

DAGS = ("ingest_radiographs", "retrain_nightly", "promote_model", "score_hourly", "monitor_daily")
DRAWN_PATIENTS = 400
DRAWN_SEED = 20261123
_BELL_TIMEOUT_S = 45.0
_DUE_TIMEOUT_S = 10.0
_RUN_TIMEOUT_S = 3 * 3600.0


@dataclass
class _Reporter:
    """Prints a run's progress: each change of a task's state, and each new line that a running task logged."""

    console: Console
    dag_id: str
    _seen: dict[str, tuple[str, str]] = field(default_factory=dict)

    def __call__(self, looks: list[TaskLook]) -> None:
        for look in looks:
            name = look.task_id if look.map_index < 0 else f"{look.task_id}[{look.map_index}]"
            now = (look.state, look.last_line)
            before = self._seen.get(name, ("waiting", ""))
            self._seen[name] = now
            if look.state != before[0] and look.state in ("running", "success", "failed", "skipped", "up_for_retry"):
                colour = {"success": "green", "failed": "red", "up_for_retry": "yellow"}.get(look.state, "cyan")
                self.console.print(f"  {self.dag_id}.{name} [{colour}]{look.state}[/]", highlight=False)
            if look.last_line and look.last_line != before[1]:
                self.console.print(f"    {look.last_line}", style="dim", highlight=False, markup=False, soft_wrap=True)


def run_demo(console: Console, *, data: Path | None = None, preset: str | None = None) -> bool:
    """Run ingest, retrain, promote, score and monitor; print what came of it. True: everything reconciles."""
    started = time.monotonic()
    preset = preset or ("cpu" if data else "demo")
    if data is not None and not data.is_dir():
        raise InvalidSettings(f"DATA={data}: there is no such folder; name one with radiographs in it.")
    if data is not None and not any(path.is_file() for path in data.rglob("*")):
        raise InvalidSettings(f"DATA={data}: there is no file in it; name a folder with radiographs in it.")
    plan_of({"preset": preset})  # an unknown one is said now, and not by Airflow in the middle
    with ThreadPoolExecutor(1, thread_name_prefix="drawing") as pool:
        drawing = pool.submit(_drawn_inbox, console) if data is None else None
        access = stack.up(console)
        folder = data or drawing.result()
    settings = load_settings()
    stores = open_context(settings)
    stores.bucket.ensure()
    with _stage(console, "radiographs into the bucket"):
        upload(console, stores, folder, prefix=f"{settings.inbox_prefix}{folder.name}/")

    with airflow_session(url=access.url, username=access.username, password=access.password) as airflow:
        for dag_id in reversed(DAGS):
            airflow.unpause(dag_id)
        with _stage(console, "ingest"):
            _run_or_join(console, airflow, "ingest_radiographs")
        before_training = datetime.now(UTC)
        with _stage(console, "retrain"):
            _run(console, airflow, "retrain_nightly", {"preset": preset, "force": True})
        before_promotion = datetime.now(UTC)
        with _stage(console, "promote"):
            _run_rung_by_asset(console, airflow, "promote_model", since=before_training)
        if (champion := stores.registry.find_champion()) is None:
            raise StackError("No model was promoted; the gate's reasons stand above and in fracture.model_event")
        # The hour may have struck while the gate judged: that run has planned without the champion.
        since = max(before_promotion, stores.registry.promoted_at(champion.version))
        with _stage(console, "score"):
            _run_rung_by_asset(console, airflow, "score_hourly", since=since)
        with _stage(console, "monitor"):
            _run(console, airflow, "monitor_daily")

    reconciled = _report(console, stores)
    console.print(
        f"\nWorklist: [bold]{access.url}/plugin/worklist[/]   user {access.username}, password: {access.password_hint}"
    )
    console.print(f"Took {time.monotonic() - started:.0f} s. `make down` stops everything.", highlight=False)
    return reconciled


def _drawn_inbox(console: Console) -> Path:
    """Draw the default data once; the next demo finds them."""
    folder = stack.data_folder() / "drawn"
    if not (folder / MANIFEST).exists():
        console.print(f"drawing {DRAWN_PATIENTS} patients' radiographs, while the servers start")
        started = time.monotonic()
        facts = write_inbox(folder, patients=DRAWN_PATIENTS, seed=DRAWN_SEED)
        console.print(f"  {facts}; {time.monotonic() - started:.0f} s", highlight=False, markup=False)
    return folder


def upload(console: Console, stores: Stores, folder: Path, *, prefix: str) -> None:
    """Send every file of the folder that the bucket does not have with these bytes. Raises: StorageUnavailable."""
    present = {received.key: received.etag for received in stores.bucket.list(prefix)}
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))

    def put(path: Path) -> bool:
        key = prefix + path.relative_to(folder).as_posix()
        data = path.read_bytes()
        # S3's tag of an object that was sent in one piece. Where it was not, the same bytes are sent again: no harm.
        if present.get(key) == hashlib.md5(data, usedforsecurity=False).hexdigest():
            return False
        stores.bucket.write(key, data, mimetypes.guess_type(path.name)[0] or "application/octet-stream")
        return True

    with ThreadPoolExecutor(8) as pool:
        written = sum(pool.map(put, files))
    console.print(f"  {len(files):,} files, {written:,} of them new in the bucket", highlight=False)


def _run_or_join(console: Console, airflow: AirflowRuns, dag_id: str) -> None:
    """Follow the run that the schedule starts from now on, where one is due: ours would do again what it does."""
    scheduled = None
    if airflow.find_active_run(dag_id) is None:  # one that is under way may not have seen the last file
        deadline = time.monotonic() + _DUE_TIMEOUT_S
        while scheduled is None and airflow.is_due(dag_id) and time.monotonic() < deadline:
            time.sleep(0.5)
            scheduled = airflow.find_active_run(dag_id)
    if scheduled is None:
        _run(console, airflow, dag_id)
    else:
        _follow(console, airflow, dag_id, scheduled)


def _run(console: Console, airflow: AirflowRuns, dag_id: str, conf: dict | None = None) -> None:
    """Follow a run of ours, and before it those that the schedule or an asset event began: ours waits for them."""
    own = airflow.trigger(dag_id, conf)
    while (other := airflow.find_active_run(dag_id, but=own)) is not None:
        _follow(console, airflow, dag_id, other)
    _follow(console, airflow, dag_id, own)


def _run_rung_by_asset(console: Console, airflow: AirflowRuns, dag_id: str, *, since: datetime) -> None:
    """Follow the run that an asset event started; ring by hand where the bell was lost (an event is only a bell)."""
    deadline = datetime.now(UTC) + timedelta(seconds=_BELL_TIMEOUT_S)
    while (run_id := airflow.find_run_since(dag_id, since)) is None and datetime.now(UTC) < deadline:
        time.sleep(1)
    _follow(console, airflow, dag_id, run_id or airflow.trigger(dag_id))


def _follow(console: Console, airflow: AirflowRuns, dag_id: str, run_id: str) -> None:
    state = airflow.follow(dag_id, run_id, timeout_s=_RUN_TIMEOUT_S, on_look=_Reporter(console, dag_id))
    if state != "success":
        raise StackError(f"{dag_id} ended as {state}; its log is in the Airflow UI, under the run {run_id}")


@contextmanager
def _stage(console: Console, name: str):
    console.rule(f"[bold]{name}", align="left")
    started = time.monotonic()
    yield
    console.print(f"  {name}: {time.monotonic() - started:.0f} s", style="dim", highlight=False)


def _report(console: Console, stores: Stores) -> bool:
    """Print counts, metrics and the first rows of the list; True where received = outcomes and due = scored."""
    counts = stores.radiographs.counts()
    champion = stores.registry.find_champion()
    outcomes = stores.predictions.reconcile(champion.version, through=stores.radiographs.newest_id())
    console.rule("[bold]result", align="left")
    for table in (
        counts_table(counts, outcomes),
        quarantine_table(counts),
        metrics_table(champion),
        worklist_table(stores, limit=8),
    ):
        console.print(table)
    accounted = counts["radiographs"] + counts["copies"] + counts["label_files"] + counts["quarantined"]
    reconciled = accounted == counts["received"] and outcomes["missing"] == 0
    console.print("[green]Everything reconciles.[/]" if reconciled else "[bold red]The counts do not add up.[/]")
    return reconciled
