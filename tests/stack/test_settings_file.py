"""What `make up` writes for every other command, and when it starts programs anew; no server runs."""

import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from dotenv import dotenv_values

from fracture_ml.core.errors import InvalidSettings, StackError
from fracture_ml.stack.airflow import Airflow
from fracture_ml.stack.servers import Servers
from fracture_ml.steps.settings import StackSettings

REPOSITORY = Path(__file__).parents[2]
AIRFLOW_URL = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"
EXTERNAL = {
    "database_url": "postgresql+psycopg2://rads:it's-theirs@db.hospital:5432/fracture",
    AIRFLOW_URL: "postgresql+psycopg2://airflow:theirs@db.hospital:5432/airflow",
    "s3_bucket": "rads",
    "s3_endpoint_url": "https://s3.hospital",
    "s3_region": "eu-central-1",
    "s3_access_key": "their key",
    "s3_secret_key": "their secret",
}
PORTS = {"stack_ui_port": "9090", "stack_postgres_port": "25432", "stack_s3_port": "28333"}


def variable(setting: str) -> str:
    return setting if setting == AIRFLOW_URL else f"FRACTURE_{setting.upper()}"


def named(settings: dict[str, str]) -> dict[str, str]:
    return {variable(name): value for name, value in settings.items()}


def as_lines(settings: dict[str, str]) -> str:
    return "".join(f'{name}="{value}"\n' for name, value in named(settings).items())


def written(folder: Path, **settings: str) -> dict[str, str]:
    """The file after one more `make up` with these settings in its environment."""
    folder.mkdir(exist_ok=True)
    Servers(StackSettings(stack_dir=folder, **settings)).write_settings()
    return dict(dotenv_values(folder / "fracture.env"))


def test_a_site_secret_that_came_from_the_environment_once_stays(tmp_path):
    first = written(tmp_path / "stack", site_secret="the hospital's own secret")
    assert first["FRACTURE_SITE_SECRET"] == "the hospital's own secret"
    assert written(tmp_path / "stack") == first


def test_another_site_secret_than_the_one_that_patients_are_known_under_is_refused(tmp_path):
    before = written(tmp_path / "stack")
    with pytest.raises(StackError, match="under which the patients are known"):
        written(tmp_path / "stack", site_secret="another one, by mistake")
    assert written(tmp_path / "stack") == before


def test_lines_that_somebody_added_or_changed_stay(tmp_path):
    folder = tmp_path / "stack"
    before = written(folder)
    assert before["FRACTURE_CACHE_DIR"] == str(folder / "cache")
    text = (folder / "fracture.env").read_text()
    text = text.replace(before["FRACTURE_CACHE_DIR"], "/somewhere/large").replace("us-east-1", "eu-central-1")
    (folder / "fracture.env").write_text(text + "FRACTURE_PREVALENCE=0.2\nFRACTURE_PROMOTION=approval\n")
    after = written(folder)
    changed = {"FRACTURE_CACHE_DIR": "/somewhere/large", "FRACTURE_S3_REGION": "eu-central-1"}
    assert after == before | changed | {"FRACTURE_PREVALENCE": "0.2", "FRACTURE_PROMOTION": "approval"}
    assert written(folder, s3_region="us-west-2")["FRACTURE_S3_REGION"] == "us-west-2"


def test_external_services_and_ports_stay_when_another_shell_starts_the_stack(tmp_path):
    """Else the hospital's database would be swapped for an empty one."""
    folder = tmp_path / "stack"
    first = written(folder, **EXTERNAL, **PORTS)
    assert first.items() >= named(EXTERNAL | PORTS).items()
    assert written(folder) == first
    servers = Servers(StackSettings(stack_dir=folder))
    assert servers.postgres is None
    assert servers.s3 is None
    assert servers.airflow.database_url == EXTERNAL[AIRFLOW_URL]
    assert servers.airflow.url == "http://127.0.0.1:9090"


def test_external_services_and_ports_may_be_written_into_the_file(tmp_path):
    folder = tmp_path / "stack"
    before = written(folder)
    with (folder / "fracture.env").open("a") as file:
        file.write(as_lines(EXTERNAL | PORTS))
    assert written(folder) == before | named(EXTERNAL | PORTS)
    assert Servers(StackSettings(stack_dir=folder)).airflow.port == 9090


def test_one_external_service_leaves_the_others_embedded(tmp_path):
    folder = tmp_path / "stack"
    embedded = written(folder)
    for name in ("database_url", AIRFLOW_URL):
        external = {name: EXTERNAL[name]}
        assert written(tmp_path / name, **external).items() >= named(external).items()
        servers = Servers(StackSettings(stack_dir=tmp_path / name))
        assert servers.postgres
        assert servers.s3
    role_at_amazon = written(folder, s3_bucket="fracture")  # no endpoint, no keys; their name for a bucket is ours too
    lost = {"FRACTURE_S3_ENDPOINT_URL", "FRACTURE_S3_ACCESS_KEY", "FRACTURE_S3_SECRET_KEY"}
    assert role_at_amazon == {name: value for name, value in embedded.items() if name not in lost}
    assert written(folder) == role_at_amazon


def test_another_external_service_in_the_environment_is_taken(tmp_path):
    folder = tmp_path / "stack"
    first = written(folder, **EXTERNAL)
    other = {"database_url": "postgresql+psycopg2://rads:theirs@new.hospital:5432/fracture", "s3_bucket": "rads2"}
    assert written(folder, **other) == first | named(other)
    assert written(folder) == first | named(other)


def test_the_embedded_servers_follow_their_ports(tmp_path):
    folder = tmp_path / "stack"
    before = written(folder)
    assert urlsplit(before["FRACTURE_DATABASE_URL"]).port == 15432
    assert not {variable(name) for name in (AIRFLOW_URL, *PORTS)} & before.keys()
    with (folder / "fracture.env").open("a") as file:
        file.write(as_lines(PORTS))
        password = Servers(StackSettings(stack_dir=folder)).credentials.airflow_database_password
        file.write(f"{AIRFLOW_URL}=postgresql+psycopg2://airflow:{password}@127.0.0.1:15432/airflow\n")
    after = written(folder)
    assert urlsplit(after["FRACTURE_DATABASE_URL"]).port == 25432
    assert after["FRACTURE_S3_ENDPOINT_URL"] == "http://127.0.0.1:28333"
    moved = {name: after[name] for name in ("FRACTURE_DATABASE_URL", "FRACTURE_S3_ENDPOINT_URL")}
    assert after == before | moved | named(PORTS)
    assert urlsplit(written(folder, stack_postgres_port="25433")["FRACTURE_DATABASE_URL"]).port == 25433


def test_a_tunnel_to_an_external_server_is_none_of_ours(tmp_path):
    """An address on this machine is not enough: the passwords are drawn."""
    tunnels = {
        "database_url": "postgresql+psycopg2://fracture:theirs@127.0.0.1:15432/fracture",
        "s3_bucket": "fracture",
        "s3_endpoint_url": "http://127.0.0.1:18333",
        "s3_access_key": "their key",
        "s3_secret_key": "their secret",
    }
    first = written(tmp_path / "stack", **tunnels)
    assert written(tmp_path / "stack") == first
    assert first.items() >= named(tunnels).items()


def test_lines_that_cannot_be_meant_are_refused_and_nothing_is_written(tmp_path):
    folder = tmp_path / "stack"
    written(folder)
    good = (folder / "fracture.env").read_text()
    (folder / "fracture.env").write_text(good + "FRACTURE_S3_BUCKET=rads\n")
    with pytest.raises(StackError, match="FRACTURE_S3_SECRET_KEY are the embedded S3's and FRACTURE_S3_BUCKET are not"):
        written(folder)
    (folder / "fracture.env").write_text(good + "FRACTURE_STACK_UI_PORT=http\n")
    with pytest.raises(InvalidSettings, match="FRACTURE_STACK_UI_PORT"):
        written(folder)
    assert (folder / "fracture.env").read_text() == good + "FRACTURE_STACK_UI_PORT=http\n"


def test_programs_of_other_code_are_others(tmp_path):
    """Else an update would leave the old processes at work on the new schema."""
    for part in ("fracture_ml", "plugins", "sql"):
        shutil.copytree(REPOSITORY / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "requirements.lock", tmp_path)

    def programs():
        return Airflow(
            folder=tmp_path / "airflow",
            port=8080,
            database_url="postgresql://unused",
            repository=tmp_path,
            credentials=credentials,
        ).programs()

    credentials = Servers(StackSettings(stack_dir=tmp_path)).credentials
    before = programs()
    assert programs() == before
    for file in ("fracture_ml/cli.py", "sql/queries/lock.sql", "requirements.lock"):
        with (tmp_path / file).open("a") as opened:
            opened.write("\n")
        assert programs() != before
        before = programs()
