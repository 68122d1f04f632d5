"""The stores of this room's tests: each test finds the database of its module empty."""

import pytest
from sqlalchemy import text

from fracture_ml.stores import Stores, open_stores
from fracture_ml.stores.database import connect, transaction
from tests.stores.stored_rows import arrival, claim, freeze, receive, register


@pytest.fixture
def stores(database_url: str, bucket) -> Stores:
    """All the stores, over an empty database and an empty bucket."""
    engine = connect(database_url)
    with transaction(engine) as connection:
        tables = connection.execute(
            text(
                "SELECT string_agg(format('fracture.%I', tablename), ', ') FROM pg_tables "
                "WHERE schemaname = 'fracture' AND tablename NOT IN ('migration', 'schema_version')"
            )
        ).scalar_one()
        connection.exec_driver_sql(f"TRUNCATE {tables} RESTART IDENTITY")
    engine.dispose()
    return open_stores(database_url=database_url, bucket=bucket)


@pytest.fixture
def version(stores: Stores) -> int:
    """A registered version over a snapshot of two labelled radiographs."""
    receive(
        stores,
        arrival("inbox/first.png", claims=[claim("inbox/first.png")]),
        arrival("inbox/second.png", claims=[claim("inbox/second.png", "negative")]),
    )
    snapshot_id = freeze(stores)
    member = stores.snapshots.members_of(snapshot_id)[1]
    return register(stores, snapshot_id, scores=[(member.radiograph_id, member.label, 0.25)]).version
