"""A server as the process manager sees it, the wait for it, and the ports that servers ask for."""

import random
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fracture_ml.core.errors import StackError

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class Program:
    """One server process in the foreground: how to start it, and how to ask it to stop."""

    name: str
    command: tuple[str, ...]
    folder: Path  # its working directory
    environment: dict[str, str] = field(default_factory=dict, repr=False)  # beyond what it inherits; holds secrets
    user: str | None = None  # None: whoever starts it
    stop_signal: str = "TERM"
    stop_wait_s: int = 10  # then SIGKILL, to its process group
    stop_as_group: bool = False  # whether its children are asked as well


def wait_until(ready: Callable[[], bool], *, timeout_s: float, sentence: str) -> None:
    """Return when `ready` says yes. Raises: StackError: the sentence; it did not in time."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > deadline:
            raise StackError(sentence)
        time.sleep(0.05)


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def find_free_ports(count: int) -> range:
    """`count` neighbouring ports that are free now, below the range that the system hands out by itself."""
    while True:
        first = random.randrange(20_000, 32_000)
        ports = range(first, first + count)
        if all(is_free(port) for port in ports):
            return ports
