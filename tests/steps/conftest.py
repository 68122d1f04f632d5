"""A place of each test's own: stores over a database and a bucket, and the settings that lead to both."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fracture_ml.steps.settings import Settings
from fracture_ml.stores.database import migrate
from tests.running import environment_of, settings_of
from tests.steps.scoring_place import Place, place_of
from tests.steps.small_hospital import open_hospital


@pytest.fixture
def stores(fresh_stores):
    return fresh_stores


@pytest.fixture
def settings(fresh_database_url, s3, bucket, tmp_path) -> Settings:
    return settings_of(environment_of(fresh_database_url, s3, bucket, tmp_path), initial_weights="none")


@pytest.fixture
def hospital(stores, settings, bucket) -> int:
    """Images, labels, scores, highlights, a final read. The champion's version."""
    return open_hospital(stores, settings, bucket)


@pytest.fixture
def place(create_database: Callable[[], str], s3, bucket, tmp_path: Path) -> Place:
    url = create_database()
    migrate(url)
    return place_of(url, s3, bucket, tmp_path)
