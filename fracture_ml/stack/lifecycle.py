"""Up, down and status of the embedded stack."""

import errno
import fcntl
import os
import re
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
from dotenv import dotenv_values
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from fracture_ml.core.errors import StackError, StorageUnavailable
from fracture_ml.stack import processes
from fracture_ml.stack.airflow import ADMIN, COMPONENTS, VIEWER, Airflow
from fracture_ml.stack.credentials import Credentials, load_credentials, write_private
from fracture_ml.stack.postgres import PostgresServer, psql_path
from fracture_ml.stack.program import LOOPBACK, Program, is_free
from fracture_ml.stack.s3 import PORTS, S3Server
from fracture_ml.stack.supervision import Supervision
from fracture_ml.steps.settings import StackSettings, inherited_environment, load_stack_settings

BUCKET = "fracture"
OWNER, READER = "fracture", "fracture_reader"
_REPOSITORY = Path(__file__).resolve().parents[2]
ROLES = _REPOSITORY / "sql" / "roles.sql"
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
    stack = Stack(load_stack_settings())
    try:
        with stack.lock():
            stack.start(console)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _disk_is_full(stack.folder) from None
    console.print(stack.panel())
    return stack.access()


def down(console: Console) -> None:
    """Stop everything, the tasks that run included; the data stay. Raises: StackError."""
    stack = Stack(load_stack_settings())
    if not stack.folder.exists():
        console.print("Nothing runs.")
        return
    with stack.lock():
        console.print("Stopped; the data stay." if stack.stop() else "Nothing runs.")


def status(console: Console) -> None:
    """Print what runs."""
    stack = Stack(load_stack_settings())
    table = Table("program", "state")
    states = stack.states()
    for program in stack.programs if states else ():
        table.add_row(program.name, states.get(program.name, "not known"))
    console.print(table if states else "Nothing runs; `make up` starts everything.")


class Stack:
    """The embedded servers of one data folder."""

    def __init__(self, environment: StackSettings):
        self._environment = environment
        self.folder = environment.stack_dir.expanduser().resolve()

    @property
    def _env_file(self) -> Path:
        return self.folder / "fracture.env"

    @cached_property
    def _written(self) -> dict[str, str]:
        """The lines of the file, as the last `make up` or a person left them."""
        return {name: value for name, value in dotenv_values(self._env_file).items() if value}

    @cached_property
    def settings(self) -> StackSettings:
        """What the environment says, else the file: `make up` from another shell means the same servers.

        Raises: InvalidSettings: a wrong line. StackError: S3 lines that are the embedded server's in part.
        """
        own = self._own_lines(self._written)
        return self._environment.completed_by({name: self._written[name] for name in self._written.keys() - own})

    def _own_lines(self, lines: dict[str, str]) -> set[str]:
        """The lines by which `make up` named embedded servers, at whichever port. They make no server external.

        Raises: StackError: S3 lines that are the embedded server's in part.
        """
        s3 = self._s3_on(_loopback_port(lines.get("FRACTURE_S3_ENDPOINT_URL", "")))
        keys = {"FRACTURE_S3_ACCESS_KEY": s3.access_key, "FRACTURE_S3_SECRET_KEY": s3.secret_key}
        bucket = keys | {"FRACTURE_S3_BUCKET": BUCKET, "FRACTURE_S3_ENDPOINT_URL": s3.endpoint_url}
        own = {name for name, value in bucket.items() if lines.get(name) == value}
        if own != bucket.keys():
            if own & keys.keys():
                raise StackError(
                    f"In {self._env_file}, {' and '.join(sorted(own))} are the embedded S3's and "
                    f"{' and '.join(sorted(bucket.keys() - own))} are not: replace the former too, or remove all four."
                )
            own = set()  # an address on this machine, and a bucket of this name, may be anybody's
        databases = {
            "FRACTURE_DATABASE_URL": (OWNER, self.credentials.fracture_database_password),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": ("airflow", self.credentials.airflow_database_password),
        }
        for name, (role, password) in databases.items():
            url = lines.get(name, "")
            if url == self._postgres_on(_loopback_port(url)).url(role=role, password=password, database=role):
                own.add(name)
        return own

    @cached_property
    def credentials(self) -> Credentials:
        path = self.folder / "secrets.json"
        if not path.exists() and (self.folder / "postgres" / "data").exists():
            raise StackError(
                f"{path} is missing and {self.folder / 'postgres'} cannot be opened without it: "
                "restore it from a backup, or remove the folder to start from nothing."
            )
        return load_credentials(path)

    @cached_property
    def supervision(self) -> Supervision:
        return Supervision(self.folder, self.credentials.stack_id)

    @cached_property
    def postgres(self) -> PostgresServer | None:
        """None: both databases are external."""
        if self.settings.database_url and self.settings.airflow_database_url:
            return None
        return self._postgres_on(self.settings.stack_postgres_port)

    def _postgres_on(self, port: int) -> PostgresServer:
        return PostgresServer(folder=self.folder / "postgres", port=port, password=self.credentials.postgres_password)

    @cached_property
    def s3(self) -> S3Server | None:
        """None: the bucket is external."""
        if self.settings.s3_endpoint_url or self.settings.s3_bucket:
            return None
        return self._s3_on(self.settings.stack_s3_port)

    def _s3_on(self, port: int) -> S3Server:
        return S3Server(
            folder=self.folder / "s3",
            port=port,
            access_key=self.credentials.s3_access_key,
            secret_key=self.credentials.s3_secret_key,
        )

    @cached_property
    def airflow(self) -> Airflow:
        return Airflow(
            folder=self.folder / "airflow",
            port=self.settings.stack_ui_port,
            database_url=self._database_url(
                self.settings.airflow_database_url, "airflow", self.credentials.airflow_database_password
            ),
            repository=_REPOSITORY,
            credentials=self.credentials,
        )

    @cached_property
    def programs(self) -> list[Program]:
        servers = [server.program() for server in (self.postgres, self.s3) if server]
        return servers + self.airflow.programs()

    def _database_url(self, external, role: str, password: str) -> str:
        if external:
            return external.get_secret_value()
        return self.postgres.url(role=role, password=password, database=role)

    @cached_property
    def database_url(self) -> str:
        """Of the product's own database."""
        return self._database_url(self.settings.database_url, OWNER, self.credentials.fracture_database_password)

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
        self.airflow.prepare()
        self.write_settings()
        with console.status("starting Postgres and S3") as spinner:
            if not self.supervision.is_alive():
                self.supervision.start(self.programs, self._process_environment())
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
        if alive and not self.supervision.is_configured_for(self.programs):
            self.supervision.shut_down()
            alive = False
        leftovers = self._processes()
        if alive:
            ours = psutil.Process(self.supervision.pid())
            kept = {ours.pid, *(child.pid for child in ours.children(recursive=True))}
            leftovers = [each for each in leftovers if each.pid not in kept]
        processes.end(leftovers, grace_s=5)
        states = self.supervision.states() if alive else {}
        for server, variable, ports in self._ports():
            if states.get(server) in ("RUNNING", "STARTING", "BACKOFF"):
                continue
            for port in ports:
                if not is_free(port):
                    raise StackError(
                        f"Port {port} of {LOOPBACK}, which {server} needs, is taken by "
                        f"{processes.find_listener(port)}: stop that, or set {variable} to another port."
                    )

    def _ports(self) -> Iterator[tuple[str, str, range]]:
        if self.postgres:
            yield "postgres", "FRACTURE_STACK_POSTGRES_PORT", range(self.postgres.port, self.postgres.port + 1)
        if self.s3:
            yield "s3", "FRACTURE_STACK_S3_PORT", range(self.s3.port, self.s3.port + PORTS)
        yield "api-server", "FRACTURE_STACK_UI_PORT", range(self.airflow.port, self.airflow.port + 1)

    def _start_databases(self) -> None:
        """Postgres, its roles and databases; then both schemas at the same time."""
        if self.postgres:
            self.postgres.prepare()
            self._start_and_wait("postgres", self.postgres)
            self.postgres.run_script(
                ROLES.read_text(),
                {
                    "AIRFLOW_DATABASE_PASSWORD": self.credentials.airflow_database_password,
                    "FRACTURE_DATABASE_PASSWORD": self.credentials.fracture_database_password,
                    "FRACTURE_READER_PASSWORD": self.credentials.reader_database_password,
                },
            )
        ours = not self.settings.airflow_database_url  # what was set up is the database in our folder
        setup = None if ours and self.airflow.is_set_up() else self._begin_airflow_setup()
        try:
            from fracture_ml.stores.database import migrate

            migrate(self.database_url)
        finally:
            if setup:
                self._finish_airflow_setup(setup)

    def _start_bucket(self) -> None:
        if self.s3 is None:
            return
        self.s3.prepare()
        if self.supervision.states()["s3"] not in ("RUNNING", "STARTING"):
            self.s3.remove_sockets()
        self._start_and_wait("s3", self.s3)
        from fracture_ml.stores.bucket import open_bucket

        bucket = open_bucket(
            name=BUCKET,
            endpoint_url=self.s3.endpoint_url,
            region=self.settings.s3_region,
            access_key=self.s3.access_key,
            secret_key=self.s3.secret_key,
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
                self.airflow.setup_command(),
                cwd=self.airflow.folder,
                env=self._process_environment() | self.airflow.environment(),
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
        if not self.settings.airflow_database_url:  # another's database may be replaced behind our back
            self.airflow.remember_set_up()

    def _wait_until_healthy(self, spinner) -> None:
        deadline = time.monotonic() + _HEALTHY_TIMEOUT_S
        while True:
            states = self.supervision.states()
            for name, state in states.items():
                if state == "FATAL":
                    raise self._failure(name, "it does not stay up")
            missing = self.airflow.unhealthy({name: self.supervision.started_at(name) for name in COMPONENTS})
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
            processes.MARKER: self.credentials.stack_id,
            "SPT_NOENV": "1",  # or Airflow, renaming its processes, overwrites the marker
            "FRACTURE_STACK_DIR": str(self.folder),
        }

    def write_settings(self) -> None:
        """Write the variables for every other command, and for the next `make up`; lines that are not ours stay.

        Raises: StackError: another site secret than the one under which the patients are known.
        """
        settings = self.settings
        ours = {
            "FRACTURE_DATABASE_URL": self.database_url,
            "FRACTURE_S3_BUCKET": BUCKET if self.s3 else settings.s3_bucket,
            "FRACTURE_S3_ENDPOINT_URL": self.s3.endpoint_url if self.s3 else settings.s3_endpoint_url,
            "FRACTURE_S3_REGION": settings.s3_region,
            "FRACTURE_S3_ACCESS_KEY": self.s3.access_key if self.s3 else _revealed(settings.s3_access_key),
            "FRACTURE_S3_SECRET_KEY": self.s3.secret_key if self.s3 else _revealed(settings.s3_secret_key),
            "FRACTURE_SITE_SECRET": self._site_secret(),
            "FRACTURE_CACHE_DIR": str((settings.cache_dir or self.folder / "cache").expanduser().resolve()),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": _revealed(settings.airflow_database_url),
        }
        for port in ("stack_ui_port", "stack_postgres_port", "stack_s3_port"):
            if port in settings.model_fields_set:
                ours[f"FRACTURE_{port.upper()}"] = str(getattr(settings, port))
        # On one machine nobody may be there to approve; your own line or variable asks for a person.
        kept = {"FRACTURE_PROMOTION": "automatic"} | {
            name: value for name, value in self._written.items() if name not in ours
        }
        lines = ["# Written by `make up`, which keeps the lines that you add."]
        for name, value in (ours | kept).items():
            if value:
                escaped = value.replace("\\", "\\\\").replace("'", "\\'")
                lines.append(f"{name}='{escaped}'")
        write_private(self._env_file, "\n".join(lines) + "\n")
        if self.postgres and not settings.database_url:
            password = self.credentials.reader_database_password
            entry = f"{LOOPBACK}:{self.postgres.port}:{OWNER}:{READER}:{password}\n"
            write_private(self.folder / "reader.pgpass", entry)
            write_private(
                self.folder / "psql",
                f"#!/bin/sh\n# psql as {READER}, who may look at the worklist and at nothing else.\n"
                f"PGPASSFILE='{self.folder}/reader.pgpass' exec '{psql_path()}'"
                f' -h {LOOPBACK} -p {self.postgres.port} -U {READER} {OWNER} "$@"\n',
                mode=0o700,
            )

    def _site_secret(self) -> str:
        """It never changes: with another one the same patient is another group. Raises: StackError."""
        asked = _revealed(self.settings.site_secret) or self.credentials.site_secret
        if asked != self._written.get("FRACTURE_SITE_SECRET", asked):
            raise StackError(
                f"FRACTURE_SITE_SECRET is not the one in {self._env_file}, under which the patients are known: "
                "unset it, or remove the folder to start from nothing."
            )
        return asked

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
        if ran and self.s3:
            self.s3.remove_sockets()
        return ran

    def _processes(self) -> list[psutil.Process]:
        return processes.processes_of(self.credentials.stack_id, self.folder / "postgres" / "data")

    # --- tell -------------------------------------------------------------------------------------

    def states(self) -> dict[str, str]:
        """The state of each program; empty where nothing runs."""
        if not (self.folder / "secrets.json").exists() or not self.supervision.is_alive():
            return {}
        return self.supervision.states()

    def access(self) -> Access:
        """How to log in as the one who may do everything."""
        return Access(
            url=self.airflow.url,
            username=ADMIN,
            password=self.airflow.password_of(ADMIN),
            password_hint=f"in {_shown(self.airflow.passwords_file)}",
        )

    def panel(self) -> Panel:
        """Where to look."""
        grid = Table.grid("name", "where", padding=(0, 2))
        grid.add_row("Airflow", f"[bold]{self.airflow.url}[/]")
        grid.add_row("log in", f"{ADMIN} or {VIEWER}")
        grid.add_row("passwords", f"cat {_shown(self.airflow.passwords_file)}")
        if self.postgres and not self.settings.database_url:
            grid.add_row("worklist", f'{_shown(self.folder / "psql")} -c "TABLE fracture.worklist_open"')
        if self.s3:
            grid.add_row("S3", f"{self.s3.endpoint_url}, bucket {BUCKET}")
        grid.add_row("settings", f"{_shown(self._env_file)}")
        grid.add_row("data, logs", f"{_shown(self.folder)}")
        grid.add_row("DAGs", "off at first: switch them on in Airflow, or run `make demo`")
        grid.add_row("stop", "make down")
        return Panel(grid, title="Running on this machine", expand=False)


def _revealed(secret) -> str | None:
    return secret.get_secret_value() if secret else None


def _loopback_port(address: str) -> int:
    """The port of an address on this machine; 0 for any other address."""
    found = re.search(re.escape(LOOPBACK) + r":(\d+)", address)
    return int(found[1]) if found else 0


def _shown(path: Path) -> str:
    """A path as short as it can be typed from here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _disk_is_full(folder: Path) -> StackError:
    return StackError(
        f"The disk that holds {folder} is full: make at least {_LEAST_FREE_BYTES // 2**20} MiB of room "
        "or set FRACTURE_STACK_DIR to a folder on another disk, then run `make up` again."
    )
