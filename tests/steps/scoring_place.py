"""Where a test scores a backlog: servers, settings and stores, and workers as processes of their own."""

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import text

from fracture_ml.steps import scoring_run
from fracture_ml.steps.score import score_batch
from fracture_ml.steps.settings import Settings
from fracture_ml.steps.worklist import rank_worklist
from fracture_ml.stores import Stores, open_stores
from fracture_ml.stores.database import transaction
from tests.running import (
    environment_of,
    settings_of,
    start_fracture,
)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Servers, settings and stores of one test."""

    stores: Stores
    settings: Settings
    environment: dict[str, str]

    def start_worker(self) -> subprocess.Popen:
        """`fracture score`, as a process of its own."""
        return start_fracture(self.environment, "score")

    def rows(self) -> dict[tuple[int, int], tuple]:
        """(version, radiograph) -> the whole outcome, with when it was written."""
        with transaction(self.stores.engine) as connection:
            rows = connection.execute(text("SELECT * FROM fracture.prediction")).mappings().all()
        return {(row["version"], row["radiograph_id"]): tuple(map(str, row.values())) for row in rows}

    def pictures(self) -> tuple[set[str], set[str]]:
        """Keys that rows name, and keys that are in the bucket."""
        with transaction(self.stores.engine) as connection:
            named = connection.execute(
                text("SELECT unnest(ARRAY[heat_map_key, overlay_key]) FROM fracture.prediction")
            ).scalars()
            return {key for key in named if key}, {found.key for found in self.stores.bucket.list("attention/")}

    def heat_maps(self) -> dict[int, str]:
        """Radiograph -> the key of the object that has its heat map."""
        with transaction(self.stores.engine) as connection:
            rows = connection.execute(
                text("SELECT radiograph_id, heat_map_key FROM fracture.prediction WHERE heat_map_key IS NOT NULL")
            ).all()
        return {radiograph_id: key for radiograph_id, key in rows}


def place_of(database_url: str, s3, bucket, folder: Path) -> Place:
    environment = environment_of(database_url, s3, bucket, folder)
    return Place(
        stores=open_stores(database_url=database_url, bucket=bucket),
        settings=settings_of(environment),
        environment=environment,
    )


def wait_for(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.01)


def wait_until_it_commits(place: Place, worker: subprocess.Popen, rows_before: int) -> None:
    wait_for(lambda: len(place.rows()) > rows_before or worker.poll() is not None)


def wait_until_it_writes(place: Place, worker: subprocess.Popen) -> None:
    """Until there are pictures that no row names yet, or nothing was left to do."""

    def writes() -> bool:
        named, stored = place.pictures()
        return bool(stored - named) or worker.poll() is not None

    wait_for(writes)


def wait_until_it_claims(place: Place, worker: subprocess.Popen) -> None:
    def claims() -> bool:
        with transaction(place.stores.engine) as connection:
            held = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND granted")
            return connection.execute(held).scalar_one() > 0 or worker.poll() is not None

    wait_for(claims)


def finish(worker: subprocess.Popen, timeout_s: float = 200.0) -> str:
    said, _ = worker.communicate(timeout=timeout_s)
    assert worker.returncode == 0, said
    return said


def score_all(place: Place) -> None:
    """What an hour does: plan, score, reconcile, rank."""
    plan = scoring_run.plan_scoring(place.stores)
    for batch in scoring_run.cut_batches(place.stores, batch_size=2000, **plan):
        score_batch(place.stores, place.settings, **batch)
    assert scoring_run.reconcile(place.stores, **plan)["missing"] == 0
    rank_worklist(place.stores, place.settings, version=plan["version"])
