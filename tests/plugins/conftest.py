"""Airflow's own app, with the worklist page, over real stores."""

import json
import os
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fracture_ml.stack.program import find_free_ports
from fracture_ml.stack.s3 import S3Server
from fracture_ml.steps.settings import Settings
from fracture_ml.stores import open_stores
from fracture_ml.stores.bucket import Bucket
from tests.plugins.drawn import Access
from tests.running import bucket_on

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def shared_bucket(s3: S3Server) -> Bucket:
    return bucket_on(s3, f"worklist-{uuid.uuid4().hex[:12]}")


@pytest.fixture
def bucket(shared_bucket: Bucket) -> Bucket:
    """One bucket for all tests of this room: objects lie under their hash, so that they cannot disturb each other."""
    return shared_bucket


@pytest.fixture(scope="session")
def airflow_page(
    s3: S3Server,
    shared_bucket: Bucket,
    create_database: Callable[[], str],
    create_migrated_database: Callable[[], str],
    tmp_path_factory,
) -> Iterator[Access]:
    """Airflow's app with the page's plugin, over an empty fracture database."""
    home = tmp_path_factory.mktemp("airflow")
    database_url, airflow_url = create_migrated_database(), create_database()
    settings = Settings(
        database_url=database_url,
        s3_bucket=shared_bucket.name,
        s3_endpoint_url=s3.endpoint_url,
        s3_access_key=s3.access_key,
        s3_secret_key=s3.secret_key,
        site_secret=secrets.token_urlsafe(24),
    )
    port = find_free_ports(1)[0]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "PYTHONPATH": str(REPOSITORY),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": airflow_url,
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_urlsafe(32),
        "AIRFLOW__API__SECRET_KEY": secrets.token_urlsafe(32),
        "FRACTURE_DATABASE_URL": database_url,
        "FRACTURE_S3_BUCKET": settings.s3_bucket,
        "FRACTURE_S3_ENDPOINT_URL": s3.endpoint_url,
        "FRACTURE_S3_ACCESS_KEY": s3.access_key,
        "FRACTURE_S3_SECRET_KEY": s3.secret_key,
        "FRACTURE_SITE_SECRET": settings.site_secret.get_secret_value(),
    }
    log = home / "server.log"
    facts_file = home / "facts.json"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("airflow_server.py")), str(port), str(facts_file)],
            cwd=home,
            env=environment,
            stdout=output,
            stderr=output,
        )
    try:
        url = f"http://127.0.0.1:{port}/fracture-worklist/"
        _wait_until_it_answers(url, server, log)
        yield Access(
            url=url,
            **json.loads(facts_file.read_text()),
            stores=open_stores(database_url=database_url, bucket=shared_bucket),
            settings=settings,
        )
    finally:
        server.terminate()
        server.wait(20)


def _wait_until_it_answers(url: str, server: subprocess.Popen, log: Path) -> None:
    give_up_at = time.monotonic() + 120
    while time.monotonic() < give_up_at and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5)
        except urllib.error.HTTPError:
            return  # 401: it answers
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"Airflow's app did not start:\n{log.read_text()[-4000:]}")
