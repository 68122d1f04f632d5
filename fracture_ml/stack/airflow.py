"""The four processes of Airflow on one machine, and the environment they share. Airflow itself is never imported."""

import hashlib
import json
import sys
import sysconfig
import urllib.request
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fracture_ml.stack.credentials import Credentials, write_private
from fracture_ml.stack.program import LOOPBACK, Program

COMPONENTS = ("api-server", "scheduler", "dag-processor", "triggerer")
ADMIN, VIEWER = "admin", "viewer"
_PARALLEL_TASKS = 4

# What a process that trains or scores is started with, so that it has the cores' whole speed.
FOR_TASKS = {
    # Tasks, servers and Airflow share the cores: a thread that waits for the other half of an operation may look again
    # 2,000 times, some 30 microseconds, before it sleeps. Without end, two trainings lose six parts of seven; not at
    # all, one training loses an eighth (docs/LOG.md).
    "GOMP_SPINCOUNT": "2000",
    # glibc: a network's large arrays are used again, not given back to the system after every batch and faulted in
    # again, page by page, for the next (docs/LOG.md).
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}


@dataclass(frozen=True, kw_only=True)
class Airflow:
    """Airflow with the LocalExecutor: its folder, its port, its database, and the repository with its DAGs."""

    folder: Path
    port: int
    database_url: str = field(repr=False)
    repository: Path
    credentials: Credentials = field(repr=False)

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def passwords_file(self) -> Path:
        return self.folder / "passwords.json"

    def prepare(self) -> None:
        """Make the folder and the users. A password that was changed in the file by hand stays."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            known = json.loads(self.passwords_file.read_text())
        except (FileNotFoundError, ValueError):
            known = {}
        wanted = {ADMIN: self.credentials.admin_password, VIEWER: self.credentials.viewer_password}
        if wanted | known != known:
            write_private(self.passwords_file, json.dumps(wanted | known) + "\n")

    def password_of(self, username: str) -> str:
        """The password of a user as it stands now."""
        return json.loads(self.passwords_file.read_text())[username]

    def environment(self) -> dict[str, str]:
        """What every Airflow process is told, beyond what it inherits."""
        secrets = self.credentials
        return {
            "AIRFLOW_HOME": str(self.folder),
            "PYTHONPATH": str(self.repository),
            "FRACTURE_STACK_CODE": self._code,  # read by nobody: with other code, the processes are others
            **FOR_TASKS,
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.repository / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(self.repository / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": str(_PARALLEL_TASKS),
            "AIRFLOW__CORE__FERNET_KEY": secrets.airflow_fernet_key,
            "AIRFLOW__CORE__HOSTNAME_CALLABLE": "socket.gethostname",  # the default asks the name server
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "5",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{ADMIN}:admin,{VIEWER}:viewer",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self.passwords_file),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": self.database_url,
            "AIRFLOW__DATABASE__LOAD_DEFAULT_CONNECTIONS": "False",
            "AIRFLOW__API__HOST": LOOPBACK,
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__SECRET_KEY": secrets.airflow_api_secret,
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.airflow_jwt_secret,
            "AIRFLOW__API_AUTH__JWT_ISSUER": "fracture",
            "AIRFLOW__EXECUTION_API__JWT_EXPIRATION_TIME": "86400",  # the default of 600 s can kill a long task
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",  # a changed file is seen after at most this
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "60",  # an unchanged one is parsed this often
            "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH": str(self.folder / "bundles"),
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(self.folder / "logs"),
        }

    @cached_property
    def _code(self) -> str:
        """A hash of what a running process holds on to: the code, the queries, the packages."""
        digest = hashlib.sha256((self.repository / "requirements.lock").read_bytes())
        for pattern in ("fracture_ml/**/*.py", "plugins/**/*.py", "sql/**/*.sql"):
            for path in sorted(self.repository.glob(pattern)):
                digest.update(path.relative_to(self.repository).as_posix().encode() + b"\0" + path.read_bytes())
        return digest.hexdigest()[:16]

    def programs(self) -> list[Program]:
        """The components in the foreground. The log servers are off: the UI reads the log files themselves."""
        options = {
            "api-server": ("--apps", "all"),
            "scheduler": ("--skip-serve-logs",),
            "dag-processor": (),
            "triggerer": ("--skip-serve-logs",),
        }
        airflow = str(Path(sysconfig.get_path("scripts")) / "airflow")
        return [
            Program(
                name=component,
                command=(sys.executable, airflow, component, *options[component]),
                folder=self.folder,
                environment=self.environment(),
                stop_as_group=True,
            )
            for component in COMPONENTS
        ]

    def setup_command(self) -> list[str]:
        """One process that migrates Airflow's database and makes the pools."""
        return [sys.executable, str(self.repository / "plugins" / "fracture_setup_airflow.py")]

    def is_set_up(self) -> bool:
        """Whether `setup_command` has ended well for this version, on the database in this folder."""
        try:
            return self._set_up_file.read_text() == self._set_up_for()
        except FileNotFoundError:
            return False

    def remember_set_up(self) -> None:
        """Note that `setup_command` has ended well."""
        self._set_up_file.write_text(self._set_up_for())

    @property
    def _set_up_file(self) -> Path:
        return self.folder / "set-up-for"

    def _set_up_for(self) -> str:
        script = hashlib.sha256(Path(self.setup_command()[-1]).read_bytes()).hexdigest()
        return f"apache-airflow {version('apache-airflow')}, setup {script}\n"

    def unhealthy(self, started_at: dict[str, float]) -> dict[str, str]:
        """The components that do not work yet, each with what is missing.

        Args: started_at: when each component was started, in seconds since 1970; an older heartbeat is its
            predecessor's and does not count.
        """
        try:
            with urllib.request.urlopen(f"{self.url}/api/v2/monitor/health", timeout=5) as answer:
                health: dict[str, Any] = json.load(answer)
        except (OSError, ValueError) as error:
            return {"api-server": f"no answer: {error}"}
        missing = {}
        if health["metadatabase"]["status"] != "healthy":
            missing["api-server"] = "it does not reach its database"
        for component in COMPONENTS[1:]:
            word = component.replace("-", "_")
            heartbeat = health[word][f"latest_{word}_heartbeat"]
            if health[word]["status"] != "healthy" or not heartbeat:
                missing[component] = "no heartbeat"
            elif datetime.fromisoformat(heartbeat).timestamp() < started_at[component]:
                missing[component] = "no heartbeat since its start"
        return missing
