"""Which processes belong to a stack, also when whoever started them is gone, and how they end."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

MARKER = "FRACTURE_STACK_ID"  # in the environment of every process of a stack, and of what they start


def processes_of(stack_id: str, postgres_data: Path) -> list[psutil.Process]:
    """Every living process of the stack, this one and its ancestors excepted.

    The marker in its environment tells; the children of Postgres overwrite theirs, so their working directory does.
    """
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    return [
        process
        for process in psutil.process_iter()
        if process.pid not in own and _belongs(process, stack_id, postgres_data)
    ]


def _belongs(process: psutil.Process, stack_id: str, postgres_data: Path) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        if process.environ().get(MARKER) == stack_id:
            return True
        return process.name() == "postgres" and process.cwd() == str(postgres_data)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def end(processes: Iterable[psutil.Process], *, grace_s: float) -> None:
    """Ask the processes to stop, and kill those that have not after `grace_s`."""
    remaining = list(processes)
    for process in remaining:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, remaining = psutil.wait_procs(remaining, timeout=grace_s)
    for process in remaining:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(remaining, timeout=10)


def find_listener(port: int) -> str:
    """Who listens on a port, in words: a name and a pid, or that it cannot be seen."""
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
            try:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
            except psutil.NoSuchProcess:
                break
    return "another process"
