"""An erasure while others are at work, or while a server goes away: it waits, and it can be done again."""

import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest

from fracture_ml.core.errors import StorageUnavailable, UnknownItem
from fracture_ml.steps.erase import erase
from fracture_ml.steps.ingest import ingest_inbox
from fracture_ml.stores.bucket import Bucket
from fracture_ml.stores.database import query, transaction
from fracture_ml.stores.predictions import PredictionRow
from tests.steps.drawn_backlog import drawn_png, promote_drawn
from tests.steps.small_hospital import WHO, all_rows, radiograph_of, sql, study_of
from tests.stores.stored_rows import register


class Failing(Bucket):
    """A bucket that goes away at the n-th deletion."""

    def __init__(self, bucket: Bucket, after: int) -> None:
        super().__init__(bucket._client, bucket.name)
        self.left = after

    def delete(self, key: str) -> None:
        self.left -= 1
        if self.left < 0:
            raise StorageUnavailable("a test")
        super().delete(key)


@pytest.mark.parametrize("after", [0, 2, 7])
def test_a_bucket_that_goes_away_leaves_the_rows_and_it_can_be_done_again(stores, settings, bucket, hospital, after):
    before = all_rows(stores)
    with pytest.raises(StorageUnavailable):
        erase(replace(stores, bucket=Failing(bucket, after)), settings, patient="H|Doe-77", **WHO)
    assert all_rows(stores) == before
    erase(stores, settings, patient="H|Doe-77", **WHO)
    assert not any("Doe" in line for _, line in all_rows(stores)) and list(bucket.list("inbox/Doe/")) == []


def in_background(work) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_it_waits_for_a_worker_that_scores_the_images_and_takes_out_what_that_wrote(stores, settings, hospital):
    image = radiograph_of(stores, "Doe/1.png")
    version = register(stores, sql(stores, "SELECT snapshot_id FROM fracture.snapshot LIMIT 1")[0].snapshot_id).version
    stores.registry.promote(version, actor="a test", reason="a test")
    with stores.predictions.claim(version, image.radiograph_id // 256) as claim:
        erasing = in_background(lambda: erase(stores, settings, patient="H|Doe-77", **WHO))
        time.sleep(0.7)
        assert erasing.is_alive() and radiograph_of(stores, "Doe/1.png") == image
        key = f"attention/{version}/late.png"
        stores.bucket.write(key, b"a picture")
        claim.save([PredictionRow(
            radiograph_id=image.radiograph_id, probability=0.9, calibrated=0.9, operating_point="urgent",
            heat_map_key=key, overlay_key=key,
        )])  # fmt: skip
    erasing.join(20)
    assert not erasing.is_alive() and list(stores.bucket.list(key)) == []
    assert sql(stores, "SELECT FROM fracture.prediction WHERE radiograph_id = :id", id=image.radiograph_id) == []


@contextmanager
def reading(stores, study_key: str):
    with transaction(stores.engine) as connection:
        connection.execute(query("worklist_lock_item"), {"study_key": study_key})
        yield


@pytest.mark.parametrize("who", ["an ingest", "a ranking", "a reader"])
def test_it_waits_for_whoever_is_at_work(stores, settings, hospital, who):
    item = stores.worklist.item_of(study_of(stores, "Doe/later.png"))
    at_work = {
        "an ingest": stores.erasures.none_meanwhile,
        "a ranking": stores.worklist.ranking_alone,
        "a reader": partial(reading, stores, item["study_key"]),
    }[who]
    with at_work():
        erasing = in_background(lambda: erase(stores, settings, patient="H|Doe-77", **WHO))
        time.sleep(0.7)
        assert erasing.is_alive() and radiograph_of(stores, "Doe/1.png")
    erasing.join(20)
    assert not erasing.is_alive() and sql(stores, "SELECT FROM fracture.erasure") != []
    with pytest.raises(UnknownItem):
        stores.worklist.act(item["study_key"], "report", actor="r", row_version=1, details={"value": "negative"})


def test_a_copy_that_comes_during_an_erasure_does_not_slip_in_behind_it(stores, settings, bucket, hospital):
    ingests = []

    class Meanwhile(Bucket):
        def delete(self, key: str) -> None:
            if not ingests:
                bucket.write("inbox/copy.png", drawn_png(6))
                ingests.append(in_background(lambda: ingest_inbox(stores, settings)))
                time.sleep(1.5)
            super().delete(key)

    erase(replace(stores, bucket=Meanwhile(bucket._client, bucket.name)), settings, patient="H|Roe-79", **WHO)
    ingests[0].join(20)
    assert not ingests[0].is_alive()
    refused = sql(stores, "SELECT object_key FROM fracture.quarantine WHERE code = 'erased'")
    assert refused == [("inbox/copy.png",)]


def test_what_was_noted_of_a_retried_reason_goes_too(stores, settings, bucket, hospital):
    radiograph = radiograph_of(stores, "Doe/later.png")
    later = promote_drawn(stores, seed=1).version
    reason = PredictionRow(radiograph_id=radiograph.radiograph_id, reason="not_readable: x")
    stores.predictions.save(later, [reason])
    assert stores.predictions.retry(later, "not_readable") == 1
    erase(stores, settings, **WHO, study=study_of(stores, "Doe/later.png"))
    assert [table for table, _ in all_rows(stores) if table == "retried_prediction"] == []


def test_a_retry_that_waits_for_an_erasure_notes_nobody_who_is_gone(stores, settings, bucket, hospital):
    radiograph = radiograph_of(stores, "Doe/later.png")
    later = promote_drawn(stores, seed=1).version
    stores.predictions.save(later, [PredictionRow(radiograph_id=radiograph.radiograph_id, reason="not_readable: x")])
    retried: list[int] = []

    class Slow(Bucket):
        def delete(self, key: str) -> None:
            if not waiting.is_alive() and not retried:
                waiting.start()
                time.sleep(1)
            super().delete(key)

    waiting = threading.Thread(target=lambda: retried.append(stores.predictions.retry(later, "not_readable")))
    slow = replace(stores, bucket=Slow(bucket._client, bucket.name))
    erase(slow, settings, **WHO, study=study_of(stores, "Doe/later.png"))
    waiting.join(20)
    assert retried == [0]
    assert [table for table, _ in all_rows(stores) if table == "retried_prediction"] == []
