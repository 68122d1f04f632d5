"""The option that every benchmark has, and what becomes of its result."""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fracture_ml.stack.airflow import FOR_TASKS


def start_as_a_task() -> None:
    """Begin again in the environment that the stack starts tasks in, unless this is it."""
    if any(os.environ.get(name) != value for name, value in FOR_TASKS.items()):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | FOR_TASKS)


@contextmanager
def as_a_script() -> Iterator[None]:
    """Processes that are started inside have the machine's own environment, as a user's script has."""
    with_those = {name: os.environ.pop(name) for name in FOR_TASKS if name in os.environ}
    try:
        yield
    finally:
        os.environ |= with_those


def parser_of(description: str) -> argparse.ArgumentParser:
    """A parser with --json. Args: description: the benchmark's docstring, of which the first line is taken."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the result")
    return parser


def report(result: dict, path: Path | None, *, printed: dict | None = None) -> None:
    """Print the result, or the part of it that is `printed`, and write all of it to `path`, where there is one."""
    print(json.dumps(result if printed is None else printed, indent=2))
    if path:
        path.write_text(json.dumps(result, indent=2) + "\n")
