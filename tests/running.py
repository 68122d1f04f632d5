"""Servers that run beside the tests, and end with them whatever happens."""

import ctypes
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

from fracture_ml.stack.postgres import PostgresServer
from fracture_ml.stack.program import Program, find_free_ports
from fracture_ml.stack.s3 import PORTS, S3Server

_ROLES = Path(__file__).parent.parent / "sql" / "roles.sql"
_PR_SET_PDEATHSIG = 1


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


def new_postgres(folder: Path) -> tuple[PostgresServer, Running]:
    """An empty Postgres with the roles of the product, running."""
    server = PostgresServer(
        folder=folder, port=find_free_ports(1)[0], password=secrets.token_urlsafe(12), durable=False
    )
    server.prepare()
    running = Running(server.program())
    server.wait_until_ready()
    server.run_script(
        _ROLES.read_text(),
        {
            "AIRFLOW_DATABASE_PASSWORD": "airflow-password",
            "FRACTURE_DATABASE_PASSWORD": "owner-password",
            "FRACTURE_READER_PASSWORD": "reader-password",
        },
    )
    return server, running


def new_s3(folder: Path) -> tuple[S3Server, Running]:
    """An S3 endpoint with one key pair and no bucket, running."""
    server = S3Server(
        folder=folder,
        port=find_free_ports(PORTS)[0],
        access_key="test-access-key",
        secret_key=secrets.token_urlsafe(24),
        volume_size_mb=32,  # room for the buckets of hundreds of tests
    )
    server.prepare()
    running = Running(server.program())
    server.wait_until_ready()
    return server, running
