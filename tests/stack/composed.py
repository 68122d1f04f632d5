"""docker-compose.yml without an engine: its commands and its environments, as processes of this machine.

Each has what a container has of its own (Airflow's home, a cache) and shares the volume of the logs. The names of other
services become addresses of the loopback. Postgres and S3 are the embedded ones.
"""

import base64
import os
import re
import secrets
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest
import yaml
from sqlalchemy import create_engine, text

from fracture_ml.demo.airflow_runs import AirflowRuns, airflow_session
from fracture_ml.stack.program import Program, find_free_ports, is_free, wait_until
from fracture_ml.stores.bucket import Bucket
from tests.running import OWNER_PASSWORD, READER_PASSWORD, Running, bucket_on, new_postgres, new_s3

REPOSITORY = Path(__file__).parents[2]
ADMIN_PASSWORD = "-begins with a dash"
_SCRIPTS = sysconfig.get_path("scripts")
_SERVICES = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())["services"]


def _pinned(lock: str) -> dict[str, str]:
    """name -> its lines in a lock, hashes included."""
    entries = re.findall(r"^[a-z0-9][^\n]*(?:\n {4}[^\n]*)*", (REPOSITORY / lock).read_text(), re.MULTILINE)
    return {re.match(r"[\w.-]+", entry)[0]: entry for entry in entries}


def install_what_a_server_adds(folder: Path) -> None:
    """The packages of the server's lock that the development's lacks or has in another version.

    The test is skipped where `uv` is not: an environment that `make install` did not make.
    """
    uv = REPOSITORY / ".venv" / "bin" / "uv"
    if not uv.exists():
        pytest.skip("uv is installed by `make install`")
    here = _pinned("requirements.lock")
    added = [entry for name, entry in _pinned("requirements-server.lock").items() if here.get(name) != entry]
    listed = folder.with_suffix(".txt")
    listed.write_text("\n".join(added))
    install = [uv, "--no-config", "pip", "install", "--quiet", "--no-deps"]
    install += ["--require-hashes", "--python", sys.executable, "--target", folder, "--requirement", listed]
    subprocess.run(install, check=True, timeout=240)


@dataclass(frozen=True, kw_only=True)
class Composed:
    """The services of the file. `variables` are what `--env-file` would hold; `packages` what a server adds."""

    folder: Path
    packages: Path
    variables: Mapping[str, str] = field(repr=False)
    addresses: Mapping[str, str]  # what the file calls a server, with its port -> here
    settings: Mapping[str, str] = field(default_factory=dict)  # in the place of the file's, to wait less

    def environment(self, service: str, machine: str) -> dict[str, str]:
        """What a container of this service is told, here. machine: whose home and cache."""
        home = self.folder / machine
        (self.folder / "logs").mkdir(exist_ok=True)
        if not home.exists():
            home.mkdir()
            (home / "logs").symlink_to(self.folder / "logs")
        of_image = {
            "AIRFLOW_HOME": str(home),
            "FRACTURE_CACHE_DIR": str(home / "cache"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
            "PATH": f"{self.packages / 'bin'}:{_SCRIPTS}:{os.environ['PATH']}",
            "PYTHONPATH": str(self.packages),
        }
        told = {name: self._here(value) for name, value in _SERVICES[service]["environment"].items()}
        return of_image | told | self.settings

    def run(self, service: str, command: Sequence[str] | None = None) -> subprocess.CompletedProcess:
        """A service that ends, or another command in its container."""
        return subprocess.run(
            self._command(command or _SERVICES[service]["command"]),
            env=self.environment(service, service),
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )

    def healthcheck(self, service: str) -> subprocess.CompletedProcess:
        """What the engine asks every two minutes."""
        kind, *asked = _SERVICES[service]["healthcheck"]["test"]
        return self.run(service, ["sh", "-c", *asked] if kind == "CMD-SHELL" else asked)

    def start(self, service: str, *, machine: str) -> Running:
        """A service that stays, on a machine of this name."""
        command = self._command(_SERVICES[service]["command"])
        if "celery" in command and machine != service:  # else all workers have this machine's name
            command += ["--celery-hostname", f"celery@{machine}"]
        program = Program(
            name=machine,
            command=tuple(command),
            folder=self.folder,
            environment=self.environment(service, machine),
            stop_wait_s=20,
        )
        return Running(program)

    def _command(self, told: Sequence[str]) -> list[str]:
        name, *arguments = map(self._here, told)
        return [shutil.which(name, path=f"{_SCRIPTS}:{os.environ['PATH']}"), *arguments]

    def _here(self, text: str) -> str:
        def value(found: re.Match) -> str:
            name, kind, otherwise = found.groups()
            told = self.variables.get(name, "")
            assert told or kind == ":-", otherwise
            return told or otherwise

        text = re.sub(r"(?<!\$)\$\{(\w+)(:[?-])([^}]*)\}", value, str(text)).replace("$$", "$")
        for there, here in self.addresses.items():
            text = re.sub(rf"(?<![\w:]){re.escape(there)}\b", here, text)
        return text


def start_broker(folder: Path, port: int, password: str) -> Running:
    """Redis, with the file's command; it answers when this returns."""
    shell, option, line = _SERVICES["redis"]["command"]
    program = Program(
        name="redis",
        command=(f"/bin/{shell}", option, f"{line.replace('$$', '$')} --bind 127.0.0.1 --port {port}"),
        folder=folder,
        environment={"REDIS_PASSWORD": password},
    )
    running = Running(program)
    wait_until(lambda: not is_free(port), timeout_s=20, sentence="Redis does not answer")
    return running


def kill(running: Running) -> None:
    """As a machine that loses its power: the process, and all that it and those have started."""
    process = psutil.Process(running.process.pid)
    for one in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            one.kill()
    running.process.wait()


@dataclass(frozen=True, kw_only=True)
class Server:
    """What runs, and the doors to it."""

    services: Composed
    running: dict[str, Running]  # by machine; what is added ends with the others
    start_redis: Callable[[], Running]
    url: str
    bucket: Bucket
    database_url: str

    @contextmanager
    def airflow(self) -> Iterator[AirflowRuns]:
        with airflow_session(url=self.url, username="admin", password=ADMIN_PASSWORD) as session:
            yield session

    def rows(self, statement: str) -> list[tuple]:
        """From the product's database."""
        engine = create_engine(self.database_url)
        with engine.connect() as connection:
            found = [tuple(row) for row in connection.execute(text(statement))]
        engine.dispose()
        return found

    def task_logs(self) -> str:
        """Of all tasks: the volume that the UI reads them from."""
        return "\n".join(path.read_text() for path in (self.services.folder / "logs").rglob("attempt=*.log"))


@contextmanager
def running_server(folder: Path) -> Iterator[Server]:
    """Every service of the file, its first start done; the worker of the queue `gpu` is the machine `gpu-machine-1`."""
    install_what_a_server_adds(folder / "packages")
    with ExitStack() as ending:
        (folder / "postgres").mkdir()
        postgres, running = new_postgres(folder / "postgres")
        ending.callback(running.stop)
        s3, running = new_s3(folder / "s3")
        ending.callback(s3.remove_sockets)
        ending.callback(running.stop)
        ui_port, broker_port = find_free_ports(2)
        port = str(ui_port)
        url = f"http://127.0.0.1:{port}"
        services = Composed(
            folder=folder / "services",
            packages=folder / "packages",
            variables={
                "POSTGRES_PASSWORD": "of the superuser",
                "REDIS_PASSWORD": "of-the-broker",
                "AIRFLOW_DATABASE_PASSWORD": "airflow-password",
                "FRACTURE_DATABASE_PASSWORD": OWNER_PASSWORD,
                "FRACTURE_READER_PASSWORD": READER_PASSWORD,
                "AIRFLOW_ADMIN_PASSWORD": ADMIN_PASSWORD,
                "AIRFLOW_API_SECRET": secrets.token_urlsafe(32),
                "AIRFLOW_JWT_SECRET": secrets.token_urlsafe(64),
                "AIRFLOW_FERNET_KEY": base64.urlsafe_b64encode(os.urandom(32)).decode(),
                "AIRFLOW_BASE_URL": url,
                "FRACTURE_S3_ACCESS_KEY": s3.access_key,
                "FRACTURE_S3_SECRET_KEY": s3.secret_key,
                "FRACTURE_SITE_SECRET": "a secret for the tests",
                "FRACTURE_CHECKPOINT_SECONDS": "1",
            },
            addresses={
                "postgres:5432": f"127.0.0.1:{postgres.port}",
                "redis:6379": f"127.0.0.1:{broker_port}",
                "s3:8333": s3.endpoint_url.partition("//")[2],
                "api-server:8080": f"127.0.0.1:{port}",
                "127.0.0.1:8080": f"127.0.0.1:{port}",
                "8080": port,
            },
            settings={
                "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",  # of 300: a task whose worker is gone
                "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "True",  # what runs here is triggered
            },
        )
        services.folder.mkdir()
        start_redis = partial(start_broker, services.folder, broker_port, services.variables["REDIS_PASSWORD"])
        started = {"redis": start_redis()}
        ending.callback(lambda: [kill(running) for running in started.values() if running.process.poll() is None])
        initialised = services.run("init")
        assert initialised.returncode == 0, initialised.stdout + initialised.stderr
        machines = {
            "api-server": "api-server",
            "scheduler": "scheduler",
            "dag-processor": "dag-processor",
            "triggerer": "triggerer",
            "worker": "worker",
            "gpu-machine-1": "worker-cpu",
        }
        started |= {machine: services.start(service, machine=machine) for machine, service in machines.items()}
        wait_until(partial(_answers, url), timeout_s=120, sentence="the api-server does not answer")
        yield Server(
            services=services,
            running=started,
            start_redis=start_redis,
            url=url,
            bucket=bucket_on(s3, "fracture"),
            database_url=postgres.url(role="fracture", password=OWNER_PASSWORD, database="fracture"),
        )


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/api/v2/monitor/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False
