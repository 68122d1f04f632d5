"""A real Postgres and a real S3 for every test that wants one: started once per session, in a temporary folder."""

import os
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fracture_ml.stack.postgres import PostgresServer
from fracture_ml.stack.s3 import S3Server
from tests.running import OWNER_PASSWORD, READER_PASSWORD, bucket_for_a_while, new_postgres, new_s3

_REPOSITORY = Path(__file__).parent.parent


def pytest_configure() -> None:
    """End a session that is asked to stop (SIGTERM) as one that is interrupted: with every fixture's clean-up."""

    def stop(signal_number: int, frame: object) -> None:
        signal.signal(signal_number, signal.SIG_IGN)
        pytest.exit("terminated", returncode=128 + signal_number)

    signal.signal(signal.SIGTERM, stop)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """An empty Postgres with the roles of the product: `fracture` owns, `fracture_reader` looks."""
    server, running = new_postgres(tmp_path_factory.mktemp("postgres"))
    yield server
    running.stop()


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 endpoint with one key pair and no bucket."""
    server, running = new_s3(tmp_path_factory.mktemp("s3"))
    yield server
    running.stop()
    server.remove_sockets()


@pytest.fixture(scope="session")
def create_database(postgres: PostgresServer) -> Callable[[], str]:
    """Call it for the URL of a new database without tables, for tests of migrations or that need several."""

    return lambda: _create_database(postgres, template="template1")


@pytest.fixture(scope="session")
def create_migrated_database(postgres: PostgresServer) -> Callable[[], str]:
    """Call it for the URL of a new migrated database without rows."""
    from fracture_ml.stores.database import migrate

    migrated = _create_database(postgres, template="template1")
    migrate(migrated)
    template = migrated.rsplit("/", 1)[1]
    return lambda: _create_database(postgres, template=template)


def _create_database(postgres: PostgresServer, *, template: str) -> str:
    name = f"test_{uuid.uuid4().hex[:12]}"
    postgres.run_script(
        f"CREATE DATABASE {name} OWNER fracture TEMPLATE {template};\nREVOKE ALL ON DATABASE {name} FROM PUBLIC;\n"
        f"GRANT CONNECT ON DATABASE {name} TO fracture_reader;\n"
    )
    return postgres.url(role="fracture", password=OWNER_PASSWORD, database=name)


@pytest.fixture(scope="module")
def database_url(create_migrated_database: Callable[[], str]) -> str:
    """The URL of a migrated database without rows, of this module's own."""
    return create_migrated_database()


@pytest.fixture
def fresh_database_url(create_migrated_database: Callable[[], str]) -> str:
    """The URL of a migrated database without rows, of this test's own."""
    return create_migrated_database()


@pytest.fixture(scope="module")
def reader_url(database_url: str) -> str:
    """The same database, for the role `fracture_reader`."""
    return database_url.replace(f"://fracture:{OWNER_PASSWORD}@", f"://fracture_reader:{READER_PASSWORD}@")


@pytest.fixture
def bucket(s3: S3Server):
    """An empty bucket of this test's own."""
    with bucket_for_a_while(s3, f"test-{uuid.uuid4().hex[:12]}") as bucket:
        yield bucket


@pytest.fixture
def stores(database_url: str, bucket):
    """All the stores, over this module's database and this test's bucket."""
    from fracture_ml.stores import open_stores

    return open_stores(database_url=database_url, bucket=bucket)


@pytest.fixture
def fresh_stores(fresh_database_url: str, bucket):
    """All the stores, over a database and a bucket of this test's own."""
    from fracture_ml.stores import open_stores

    return open_stores(database_url=fresh_database_url, bucket=bucket)


@pytest.fixture
def settings():
    """What a place decides, where nothing is connected by it."""
    from fracture_ml.steps.settings import Settings

    return Settings(
        _env_file=None,
        database_url="postgresql+psycopg2://unused",
        s3_bucket="unused",
        site_secret="a secret of these tests",
    )


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real radiographs beside the repository, or FRACTURE_REAL_DATA."""
    folder = Path(os.environ.get("FRACTURE_REAL_DATA") or _REPOSITORY.parent / "shared" / "data")
    if not (folder / "fracatlas").is_dir():
        pytest.skip("no real radiographs here: set FRACTURE_REAL_DATA")
    return folder
