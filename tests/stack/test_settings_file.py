"""What `make up` writes for every other command, and when it starts programs anew; no server runs."""

import shutil
from pathlib import Path

import pytest
from dotenv import dotenv_values

from fracture_ml.core.errors import StackError
from fracture_ml.stack.airflow import Airflow
from fracture_ml.stack.lifecycle import Stack
from fracture_ml.steps.settings import StackSettings

REPOSITORY = Path(__file__).parents[2]


def written(folder: Path, **settings: str) -> dict[str, str]:
    """The file after one more `make up` with these settings in its environment."""
    folder.mkdir(exist_ok=True)
    Stack(StackSettings(stack_dir=folder, **settings)).write_settings()
    return dotenv_values(folder / "fracture.env")


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

    credentials = Stack(StackSettings(stack_dir=tmp_path)).credentials
    before = programs()
    assert programs() == before
    for file in ("fracture_ml/cli.py", "sql/queries/lock.sql", "requirements.lock"):
        with (tmp_path / file).open("a") as opened:
            opened.write("\n")
        assert programs() != before
        before = programs()
