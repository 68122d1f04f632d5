"""Servers that run beside the tests, and end with them whatever happens."""

import ctypes
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fracture_ml.stack.postgres import PostgresServer
from fracture_ml.stack.program import Program, find_free_ports
from fracture_ml.stack.s3 import PORTS, S3Server
from fracture_ml.steps.settings import Settings
from fracture_ml.stores.bucket import Bucket, open_bucket

_ROLES = Path(__file__).parent.parent / "sql" / "roles.sql"
_PR_SET_PDEATHSIG = 1
OWNER_PASSWORD, READER_PASSWORD = "owner-password", "reader-password"


def _die_with_parent() -> None:
    """Runs in the child: the kernel ends it when this session is killed without a chance to clean up."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Running:
    """A program that runs beside the tests, with its output in a file."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.log = program.folder / f"{program.name}.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                program.command,
                cwd=program.folder,
                env={"PATH": os.environ["PATH"], "HOME": str(program.folder), **program.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=program.user,
                group=program.user,
                extra_groups=[] if program.user else None,
                start_new_session=True,  # Ctrl-C in the terminal is for pytest alone
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - no thread runs when the session starts its servers
            )

    def stop(self) -> None:
        self.process.send_signal(getattr(signal, f"SIG{self.program.stop_signal}"))
        try:
            self.process.wait(self.program.stop_wait_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def new_postgres(folder: Path, *, durable: bool = False) -> tuple[PostgresServer, Running]:
    """An empty Postgres with the roles of the product, running. The owner's password is OWNER_PASSWORD."""
    server = PostgresServer(
        folder=folder, port=find_free_ports(1)[0], password=secrets.token_urlsafe(12), durable=durable
    )
    server.prepare()
    running = Running(server.program())
    server.wait_until_ready()
    server.run_script(
        _ROLES.read_text(),
        {
            "AIRFLOW_DATABASE_PASSWORD": "airflow-password",
            "FRACTURE_DATABASE_PASSWORD": OWNER_PASSWORD,
            "FRACTURE_READER_PASSWORD": READER_PASSWORD,
        },
    )
    return server, running


def new_s3(folder: Path, *, volume_size_mb: int = 32) -> tuple[S3Server, Running]:
    """An S3 endpoint with one key pair and no bucket, running. Small volumes leave room for hundreds of buckets."""
    server = S3Server(
        folder=folder,
        port=find_free_ports(PORTS)[0],
        access_key="test-access-key",
        secret_key=secrets.token_urlsafe(24),
        volume_size_mb=volume_size_mb,
    )
    server.prepare()
    running = Running(server.program())
    server.wait_until_ready()
    return server, running


def bucket_on(server: S3Server, name: str) -> Bucket:
    """A bucket of this name, made where it is missing."""
    bucket = open_bucket(
        name=name,
        endpoint_url=server.endpoint_url,
        region="us-east-1",
        access_key=server.access_key,
        secret_key=server.secret_key,
    )
    bucket.ensure()
    return bucket


@contextmanager
def bucket_for_a_while(server: S3Server, name: str) -> Iterator[Bucket]:
    """A new bucket, which is deleted at the end with all that is in it: each takes a part of the free disk."""
    bucket = bucket_on(server, name)
    try:
        yield bucket
    finally:
        bucket._client.delete_bucket(Bucket=name)


def environment_of(database_url: str, s3: S3Server, bucket: Bucket, folder: Path) -> dict[str, str]:
    """The FRACTURE_* variables of a place, for a process or for `settings_of`."""
    return {
        "FRACTURE_STACK_DIR": str(folder),
        "FRACTURE_DATABASE_URL": database_url,
        "FRACTURE_S3_BUCKET": bucket.name,
        "FRACTURE_S3_ENDPOINT_URL": s3.endpoint_url,
        "FRACTURE_S3_ACCESS_KEY": s3.access_key,
        "FRACTURE_S3_SECRET_KEY": s3.secret_key,
        "FRACTURE_SITE_SECRET": "a secret for the tests",
        "FRACTURE_DEVICE": "cpu",
        "FRACTURE_CACHE_DIR": str(folder / "cache"),
    }


def settings_of(environment: Mapping[str, str], **changes: object) -> Settings:
    """The settings that these variables make."""
    values = {name.removeprefix("FRACTURE_").lower(): value for name, value in environment.items()}
    return Settings(_env_file=None, **(values | changes))


def start_fracture(
    environment: Mapping[str, str], *arguments: str, stderr: int = subprocess.STDOUT
) -> subprocess.Popen:
    """A command of the product as a process of its own, with no FRACTURE_* variables but these."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FRACTURE_")}
    return subprocess.Popen(
        [Path(sys.executable).with_name("fracture"), *arguments],
        env=kept | environment,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )
