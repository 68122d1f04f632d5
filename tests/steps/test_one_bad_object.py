"""One bad object never stops the rest, however it is bad."""

import multiprocessing
import os
import signal
from dataclasses import replace

import pytest
from numpy.random import default_rng
from PIL import Image
from pydantic import SecretStr
from sqlalchemy import text

from fracture_ml.core.errors import DatabaseUnavailable, InvalidSettings, StorageUnavailable
from fracture_ml.imaging import facts
from fracture_ml.steps import ingest
from fracture_ml.steps.context import open_context
from fracture_ml.steps.settings import Settings
from fracture_ml.stores.bucket import Bucket
from fracture_ml.stores.database import transaction
from tests.imaging.made_files import bytes_of, dicom_dataset
from tests.steps.refusing import Refusing


def put_images(bucket, tmp_path, *widths: int) -> None:
    for width in widths:
        path = tmp_path / f"{width}.png"
        Image.fromarray(default_rng(width).integers(0, 255, (64, width), dtype="uint8")).save(path)
        bucket.write(f"inbox/{width}.png", path.read_bytes())


def quarantined(stores) -> dict[str, str]:
    with transaction(stores.engine) as connection:
        rows = connection.execute(text("SELECT object_key, code FROM fracture.quarantine"))
        return {row.object_key: row.code for row in rows}


def test_text_that_postgres_cannot_store_costs_nobody_else_anything(stores, settings, bucket, tmp_path):
    put_images(bucket, tmp_path, 64, 65)
    bucket.write("inbox/nul.dcm", bytes_of(dicom_dataset(Manufacturer="AC\0ME\x1b")))
    bucket.write("inbox/nul.csv", b"object_key,label,labelled_by\n64.png,1,dr\0a\n")
    bucket.write("inbox/deep.json", b"[" * 100_000)
    bucket.write("inbox/good.csv", b"object_key,label\n65.png,1\n")
    counts = ingest.ingest_inbox(stores, settings)
    assert (counts["radiograph"], counts["labels"], counts["quarantined"]) == (3, 1, 2)
    assert set(quarantined(stores).values()) == {"unreadable_labels"}
    assert {row["manufacturer"] for row in stores.radiographs.subgroups_of([1, 2, 3]).values()} == {"unknown", "ACME"}


@pytest.mark.parametrize(
    ("code", "status"), [("AccessDenied", 403), ("InvalidObjectState", 403), ("InternalError", 500)]
)
def test_an_object_that_the_bucket_does_not_hand_over_is_set_aside(stores, settings, bucket, tmp_path, code, status):
    put_images(bucket, tmp_path, 64, 65, 66)
    bucket.write("inbox/of another.csv", b"object_key,label\n64.png,1\n")
    refused = {"inbox/65.png", "inbox/of another.csv"}
    guarded = replace(stores, bucket=Bucket(Refusing(bucket._client, code, refused, status=status), bucket.name))
    counts = ingest.ingest_inbox(guarded, settings)
    assert (counts["radiograph"], counts["labels"], counts["quarantined"]) == (2, 0, 2)
    assert quarantined(stores) == dict.fromkeys(refused, "not_readable")
    # What comes later, and is refused while nothing else is new, is told by what is known.
    put_images(bucket, tmp_path, 67)
    guarded = replace(
        stores, bucket=Bucket(Refusing(bucket._client, code, {"inbox/67.png"}, status=status), bucket.name)
    )
    assert ingest.ingest_inbox(guarded, settings)["quarantined"] == 1
    counts = ingest.ingest_inbox(stores, settings, retry_quarantined="not_readable")
    assert (counts["retried"], counts["radiograph"], counts["labels"]) == (3, 2, 1)


def test_a_key_that_may_read_nothing_is_no_objects_fault(stores, settings, bucket, tmp_path):
    put_images(bucket, tmp_path, 64, 65)
    nothing = {"inbox/64.png", "inbox/65.png"}
    guarded = replace(stores, bucket=Bucket(Refusing(bucket._client, "AccessDenied", nothing), bucket.name))
    with pytest.raises(StorageUnavailable, match="FRACTURE_S3_ACCESS_KEY"):
        ingest.ingest_inbox(guarded, settings)
    assert quarantined(stores) == {}
    assert ingest.ingest_inbox(stores, settings)["radiograph"] == 2


def test_what_postgres_refuses_takes_no_other_object_of_its_transaction_with_it(stores, settings, bucket, tmp_path):
    with transaction(stores.engine) as connection:
        connection.execute(text("ALTER TABLE fracture.radiograph ADD CHECK (width_px <> 70)"))
        connection.execute(text("ALTER TABLE fracture.label ADD CHECK (reader <> 'nobody')"))
    put_images(bucket, tmp_path, 64, 70, 65)
    bucket.write("inbox/bad.csv", b"object_key,label,labelled_by\n64.png,1,nobody\n")
    counts = ingest.ingest_inbox(stores, settings)
    assert (counts["radiograph"], counts["labels"]) == (2, 0)
    assert quarantined(stores) == {"inbox/70.png": "internal_error", "inbox/bad.csv": "internal_error"}


def test_no_memory_is_no_fault_of_the_image_and_it_may_be_tried_again(stores, settings, bucket, tmp_path, monkeypatch):
    put_images(bucket, tmp_path, 64, 70)
    real = facts.perceptual_hash

    def without_memory(pixels):
        if pixels.shape[1] == 70:
            raise MemoryError
        return real(pixels)

    monkeypatch.setattr(facts, "perceptual_hash", without_memory)
    ingest.ingest_inbox(stores, settings)
    assert quarantined(stores) == {"inbox/70.png": "out_of_memory"}
    monkeypatch.undo()
    assert ingest.ingest_inbox(stores, settings, retry_quarantined="out_of_memory")["radiograph"] == 1
    assert quarantined(stores) == {}


def test_where_postgres_goes_away_the_rest_of_the_inbox_is_not_fetched(stores, settings, bucket, tmp_path, monkeypatch):
    put_images(bucket, tmp_path, *range(64, 364))
    looked_at = []
    inspect = ingest._inspect
    monkeypatch.setattr(ingest, "_inspect", lambda *given, **rules: looked_at.append(1) or inspect(*given, **rules))

    def away(*given, **options):
        raise DatabaseUnavailable("away")

    monkeypatch.setattr(stores.radiographs, "record_radiographs", away)
    with pytest.raises(DatabaseUnavailable):
        ingest.ingest_inbox(stores, settings, threads=1)
    assert len(looked_at) < 200


def _ingest_and_be_killed_by(killer: str, settings: Settings) -> None:
    """In a process of its own: an object that ends whoever looks at it, as one does that takes all memory."""
    read = Bucket.read

    def read_and_die(bucket: Bucket, key: str) -> bytes:
        if key == killer:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(bucket, key)

    Bucket.read = read_and_die
    ingest.ingest_inbox(open_context(settings), settings)


@pytest.mark.parametrize(("killer", "radiographs", "outcome"), [("66.png", 7, "radiograph"), ("66.csv", 8, "labels")])
def test_an_object_that_kills_its_reader_is_set_aside_and_the_others_are_taken_in(
    killer, radiographs, outcome, stores, settings, bucket, tmp_path
):
    put_images(bucket, tmp_path, *range(64, 72))
    for name in ("66", "71"):
        bucket.write(f"inbox/{name}.csv", f"object_key,label\n{name}.png,positive\n".encode())
    ended_by = []
    for _ in range(5):
        process = multiprocessing.get_context("spawn").Process(
            target=_ingest_and_be_killed_by, args=(f"inbox/{killer}", settings)
        )
        process.start()
        process.join(120)
        ended_by.append(process.exitcode)
    assert ended_by == [-signal.SIGKILL] * 3 + [0, 0]
    assert quarantined(stores) == {f"inbox/{killer}": "stops_the_reader"}
    assert stores.radiographs.counts()["radiographs"] == radiographs
    counts = ingest.ingest_inbox(stores, settings, retry_quarantined="stops_the_reader")
    assert (counts["retried"], counts[outcome]) == (1, 1) and quarantined(stores) == {}


def test_servers_that_go_away_are_no_objects_fault_however_often(stores, settings, bucket, tmp_path, monkeypatch):
    put_images(bucket, tmp_path, *range(64, 70))
    for _ in range(5):
        with monkeypatch.context() as patch, pytest.raises(StorageUnavailable):
            patch.setattr(bucket, "read", lambda key: (_ for _ in ()).throw(StorageUnavailable("away")))
            ingest.ingest_inbox(stores, settings)
    assert ingest.ingest_inbox(stores, settings)["radiograph"] == 6
    assert quarantined(stores) == {}


def test_a_name_too_long_for_an_index_stops_no_ingest(stores, settings, bucket, tmp_path):
    put_images(bucket, tmp_path, 64)
    long = default_rng(0).bytes(4000).hex()
    bucket.write("inbox/long.csv", f"object_key,label\n{long}.png,1\n".encode())
    assert ingest.ingest_inbox(stores, settings)["radiograph"] == 1
    assert quarantined(stores) == {"inbox/long.csv": "internal_error"}


def test_another_site_secret_is_refused_before_it_makes_two_patients_of_one(stores, settings, bucket, tmp_path):
    put_images(bucket, tmp_path, 64, 65)
    ingest.ingest_inbox(stores, settings)
    put_images(bucket, tmp_path, 66)
    other = settings.model_copy(update={"site_secret": SecretStr("another secret of this site")})
    with pytest.raises(InvalidSettings, match="put the old one back"):
        ingest.ingest_inbox(stores, other)
    assert stores.radiographs.counts()["received"] == 2
    assert ingest.ingest_inbox(stores, settings)["radiograph"] == 1
