"""Up, down and status of the embedded stack."""

import errno
import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import psutil
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from fracture_ml.core.errors import StackError, StorageUnavailable, is_full_disk
from fracture_ml.stack import processes
from fracture_ml.stack.airflow import ADMIN, COMPONENTS, VIEWER
from fracture_ml.stack.postgres import PostgresServer
from fracture_ml.stack.program import LOOPBACK, is_free
from fracture_ml.stack.s3 import BUCKET, S3Server
from fracture_ml.stack.servers import Servers
from fracture_ml.stack.supervision import Supervision
from fracture_ml.steps.settings import inherited_environment, load_stack_settings

_ROLES = Path(__file__).resolve().parents[2] / "sql" / "roles.sql"
_HEALTHY_TIMEOUT_S = 180.0
_SETUP_TIMEOUT_S = 300.0
_BUCKET_TIMEOUT_S = 30.0
_LEAST_FREE_BYTES = 512 * 2**20


@dataclass(frozen=True, kw_only=True)
class Access:
    """How to reach Airflow's UI and API."""

    url: str
    username: str
    password: str = field(repr=False)
    password_hint: str


def data_folder() -> Path:
    """The folder that holds everything of the stack, as an absolute path."""
    return load_stack_settings().stack_dir.expanduser().resolve()


def up(console: Console) -> Access:
    """Start what does not run, bring it up to date, and return when all of it is healthy. It can be repeated.

    Raises: StackError, InvalidSettings: one sentence that says what to do.
    """
    stack = _stack()
    try:
        with stack.lock():
            stack.start(console)
    except OSError as error:
        if not is_full_disk(error):
            raise
        raise _disk_is_full(stack.folder) from None
    console.print(stack.panel())
    return stack.access()


def down(console: Console) -> None:
    """Stop everything, the tasks that run included; the data stay. Raises: StackError."""
    stack = _stack()
    if not stack.folder.exists():
        console.print("Nothing runs.")
        return
    with stack.lock():
        console.print("Stopped; the data stay." if stack.stop() else "Nothing runs.")


def status(console: Console) -> None:
    """Print what runs."""
    stack = _stack()
    table = Table("program", "state")
    states = stack.states()
    for program in stack.servers.programs if states else ():
        table.add_row(program.name, states.get(program.name, "not known"))
    console.print(table if states else "Nothing runs; `make up` starts everything.")


class Stack:
    """Starts and stops the embedded servers of one data folder."""

    def __init__(self, servers: Servers):
        self.servers = servers
        self.folder = servers.folder

    @cached_property
    def supervision(self) -> Supervision:
        return Supervision(self.folder, self.servers.credentials.stack_id)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Only one process at a time starts or stops this stack. Raises: StackError."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StackError("Another `make up` or `make down` is at work: wait until it has ended.") from None
            yield

    # --- start ------------------------------------------------------------------------------------

    def start(self, console: Console) -> None:
        """Everything that `up` does, under the lock."""
        if shutil.disk_usage(self.folder).free < _LEAST_FREE_BYTES:
            raise _disk_is_full(self.folder)
        self._clear_the_ground()
        self.servers.airflow.prepare()
        self.servers.write_settings()
        with console.status("starting Postgres and S3") as spinner:
            if not self.supervision.is_alive():
                self.supervision.start(self.servers.programs, self._process_environment())
            with ThreadPoolExecutor(2) as pool:
                waiting = [pool.submit(self._start_databases), pool.submit(self._start_bucket)]
                for each in waiting:
                    each.result()
            spinner.update("starting Airflow")
            for component in COMPONENTS:
                self.supervision.start_program(component)
            self._wait_until_healthy(spinner)

    def _clear_the_ground(self) -> None:
        """End what a crash left behind, and make sure of the ports. Raises: StackError: a taken port."""
        alive = self.supervision.is_alive()
        if alive and not self.supervision.is_configured_for(self.servers.programs):
            self.supervision.shut_down()
            alive = False
        leftovers = self._processes()
        if alive:
            ours = psutil.Process(self.supervision.pid())
            kept = {ours.pid, *(child.pid for child in ours.children(recursive=True))}
            leftovers = [each for each in leftovers if each.pid not in kept]
        processes.end(leftovers, grace_s=5)
        states = self.supervision.states() if alive else {}
        for server, variable, ports in self.servers.ports():
            if states.get(server) in ("RUNNING", "STARTING", "BACKOFF"):
                continue
            for port in ports:
                if not is_free(port):
                    raise StackError(
                        f"Port {port} of {LOOPBACK}, which {server} needs, is taken by "
                        f"{processes.find_listener(port)}: stop that, or set {variable} to another port."
                    )

    def _start_databases(self) -> None:
        """Postgres, its roles and databases; then both schemas at the same time."""
        if self.servers.postgres:
            self.servers.postgres.prepare()
            self._start_and_wait("postgres", self.servers.postgres)
            self.servers.postgres.run_script(
                _ROLES.read_text(),
                {
                    "AIRFLOW_DATABASE_PASSWORD": self.servers.credentials.airflow_database_password,
                    "FRACTURE_DATABASE_PASSWORD": self.servers.credentials.fracture_database_password,
                    "FRACTURE_READER_PASSWORD": self.servers.credentials.reader_database_password,
                },
            )
        ours = not self.servers.settings.airflow_database_url  # what was set up is the database in our folder
        setup = None if ours and self.servers.airflow.is_set_up() else self._begin_airflow_setup()
        try:
            from fracture_ml.stores.database import migrate

            migrate(self.servers.database_url)
        finally:
            if setup:
                self._finish_airflow_setup(setup)

    def _start_bucket(self) -> None:
        if self.servers.s3 is None:
            return
        self.servers.s3.prepare()
        if self.supervision.states()["s3"] not in ("RUNNING", "STARTING"):
            self.servers.s3.remove_sockets()
        self._start_and_wait("s3", self.servers.s3)
        from fracture_ml.stores.bucket import open_bucket

        bucket = open_bucket(
            name=BUCKET,
            endpoint_url=self.servers.s3.endpoint_url,
            region=self.servers.settings.s3_region,
            access_key=self.servers.s3.access_key,
            secret_key=self.servers.s3.secret_key,
        )
        deadline = time.monotonic() + _BUCKET_TIMEOUT_S
        while True:
            try:
                return bucket.ensure()
            except StorageUnavailable as error:
                if time.monotonic() > deadline:
                    raise self._failure("s3", str(error)) from None
                time.sleep(0.2)

    def _start_and_wait(self, name: str, server: PostgresServer | S3Server) -> None:
        self.supervision.start_program(name)
        try:
            server.wait_until_ready()
        except StackError as error:
            raise self._failure(name, str(error)) from None

    def _begin_airflow_setup(self) -> subprocess.Popen:
        log = self.supervision.log_of("airflow-setup")
        with log.open("w") as file:
            return subprocess.Popen(
                self.servers.airflow.setup_command(),
                cwd=self.servers.airflow.folder,
                env=self._process_environment() | self.servers.airflow.environment(),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )

    def _finish_airflow_setup(self, setup: subprocess.Popen) -> None:
        try:
            code = setup.wait(_SETUP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            setup.kill()
            setup.wait()
            raise self._failure("airflow-setup", f"not done after {_SETUP_TIMEOUT_S:.0f} s") from None
        if code != 0:
            raise self._failure("airflow-setup", f"exit code {code}")
        if not self.servers.settings.airflow_database_url:  # another's database may be replaced behind our back
            self.servers.airflow.remember_set_up()

    def _wait_until_healthy(self, spinner) -> None:
        deadline = time.monotonic() + _HEALTHY_TIMEOUT_S
        while True:
            states = self.supervision.states()
            for name, state in states.items():
                if state == "FATAL":
                    raise self._failure(name, "it does not stay up")
            missing = self.servers.airflow.unhealthy({name: self.supervision.started_at(name) for name in COMPONENTS})
            if not missing:
                return
            if time.monotonic() > deadline:
                name, reason = next(iter(missing.items()))
                raise self._failure(name, f"{reason} after {_HEALTHY_TIMEOUT_S:.0f} s")
            spinner.update(f"waiting for {', '.join(missing)}")
            time.sleep(0.3)

    def _failure(self, name: str, reason: str) -> StackError:
        lines = self.supervision.last_lines(name)
        if os.strerror(errno.ENOSPC) in lines:
            return _disk_is_full(self.folder)
        return StackError(f"{name} does not start ({reason}). {self.supervision.log_of(name)} ends with:\n{lines}")

    def _process_environment(self) -> dict[str, str]:
        return inherited_environment() | {
            processes.MARKER: self.servers.credentials.stack_id,
            "SPT_NOENV": "1",  # or Airflow, renaming its processes, overwrites the marker
            "FRACTURE_STACK_DIR": str(self.folder),
        }

    # --- stop -------------------------------------------------------------------------------------

    def stop(self) -> bool:
        """Stop every process of the stack. Returns whether there was one. Raises: StackError: one does not end."""
        ran = bool(self._processes())
        if self.supervision.is_alive():
            self.supervision.shut_down()
        processes.end(self._processes(), grace_s=5)
        if remaining := self._processes():
            pids = ", ".join(str(process.pid) for process in remaining)
            raise StackError(f"These processes do not end, though they were killed: {pids}.")
        if ran and self.servers.s3:
            self.servers.s3.remove_sockets()
        return ran

    def _processes(self) -> list[psutil.Process]:
        return processes.processes_of(self.servers.credentials.stack_id, self.folder / "postgres" / "data")

    # --- tell -------------------------------------------------------------------------------------

    def states(self) -> dict[str, str]:
        """The state of each program; empty where nothing runs."""
        if not (self.folder / "secrets.json").exists() or not self.supervision.is_alive():
            return {}
        return self.supervision.states()

    def access(self) -> Access:
        """How to log in as the one who may do everything."""
        return Access(
            url=self.servers.airflow.url,
            username=ADMIN,
            password=self.servers.airflow.password_of(ADMIN),
            password_hint=f"in {_shown(self.servers.airflow.passwords_file)}",
        )

    def panel(self) -> Panel:
        """Where to look."""
        grid = Table.grid("name", "where", padding=(0, 2))
        grid.add_row("Airflow", f"[bold]{self.servers.airflow.url}[/]")
        grid.add_row("log in", f"{ADMIN} or {VIEWER}")
        grid.add_row("passwords", f"cat {_shown(self.servers.airflow.passwords_file)}")
        if self.servers.postgres and not self.servers.settings.database_url:
            grid.add_row("worklist", f'{_shown(self.folder / "psql")} -c "TABLE fracture.worklist_open"')
        if self.servers.s3:
            grid.add_row("S3", f"{self.servers.s3.endpoint_url}, bucket {BUCKET}")
        grid.add_row("settings", f"{_shown(self.servers.settings_file.path)}")
        grid.add_row("data, logs", f"{_shown(self.folder)}")
        grid.add_row("DAGs", "off until you switch them on in Airflow, or run `make demo`")
        grid.add_row("stop", "make down")
        return Panel(grid, title="Running on this machine", expand=False)


def _stack() -> Stack:
    return Stack(Servers(load_stack_settings()))


def _shown(path: Path) -> str:
    """A path as short as it can be typed from here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _disk_is_full(folder: Path) -> StackError:
    return StackError(
        f"The disk that holds {folder} is full: make at least {_LEAST_FREE_BYTES // 2**20} MiB of room "
        "or set FRACTURE_STACK_DIR to a folder on another disk, then run `make up` again."
    )
