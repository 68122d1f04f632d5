"""The only room with side effects: Postgres and object storage, behind a class per thing."""

from dataclasses import dataclass

from sqlalchemy import Engine

from fracture_ml.stores.bucket import Bucket
from fracture_ml.stores.database import check_schema, connect
from fracture_ml.stores.erasures import ErasureStore
from fracture_ml.stores.monitoring import MonitoringStore
from fracture_ml.stores.predictions import PredictionStore
from fracture_ml.stores.radiographs import RadiographStore
from fracture_ml.stores.registry import Registry
from fracture_ml.stores.snapshots import SnapshotStore
from fracture_ml.stores.worklist import WorklistStore


@dataclass(frozen=True, kw_only=True)
class Stores:
    """All that a step is handed to read from and write to."""

    engine: Engine
    bucket: Bucket
    radiographs: RadiographStore
    snapshots: SnapshotStore
    registry: Registry
    predictions: PredictionStore
    worklist: WorklistStore
    monitoring: MonitoringStore
    erasures: ErasureStore


def open_stores(*, database_url: str, bucket: Bucket) -> Stores:
    """Connect, and check that the database is the one this code was written for.

    Raises: InvalidSettings, DatabaseUnavailable; SchemaMismatch: run `fracture migrate`.
    """
    engine = connect(database_url)
    check_schema(engine)
    return Stores(
        engine=engine,
        bucket=bucket,
        radiographs=RadiographStore(engine),
        snapshots=SnapshotStore(engine),
        registry=Registry(engine),
        predictions=PredictionStore(engine),
        worklist=WorklistStore(engine),
        monitoring=MonitoringStore(engine),
        erasures=ErasureStore(engine),
    )
