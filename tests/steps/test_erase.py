"""A patient who is taken out leaves no trace but the record, and nobody else notices."""

import hashlib
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from fracture_ml.core.errors import Conflict, DatabaseRefused, NotAllowed, StorageUnavailable, UnknownItem
from fracture_ml.core.records import Split
from fracture_ml.data.labels import patient_key_of
from fracture_ml.steps import scoring_run
from fracture_ml.steps.erase import erase
from fracture_ml.steps.ingest import ingest_inbox
from fracture_ml.steps.pictures import read_picture
from fracture_ml.steps.pixels import open_pixels
from fracture_ml.steps.score import score_batch
from fracture_ml.steps.worklist import rank_worklist
from fracture_ml.stores.bucket import Bucket
from fracture_ml.stores.database import transaction
from fracture_ml.stores.predictions import PredictionRow
from tests.steps.drawn_backlog import SIZE_PX, drawn_png, promote_drawn
from tests.stores.stored_rows import freeze, register

WHO = {"actor": "dpo", "reason": "ticket 12"}
HEADER = "object_key,patient_key,study_key,label,labelled_by,labelled_at\n"
# Two studies of the first patient, one each of the others: name of the file -> patient, study, number of the drawing.
FILES = {
    "Doe/1.png": ("H|Doe-77", "S1", 1),
    "Doe/2.png": ("H|Doe-77", "S1", 2),
    "Doe/later.png": ("H|Doe-77", "S2", 3),
    "Poe/1.png": ("H|Poe-78", "S3", 4),
    "Poe/2.png": ("H|Poe-78", "S3", 5),
    "Roe/1.png": ("H|Roe-79", "S4", 6),
}


def manifest(extra: str = "") -> bytes:
    rows = [
        f"{name},{patient},{study},{number % 2},Dr. A,2026-03-01\n" for name, (patient, study, number) in FILES.items()
    ]
    return (HEADER + "".join(rows) + extra).encode()


@pytest.fixture
def hospital(stores, settings, bucket):
    """Images, labels, a champion, scores, highlights, a final read. Returns: the champion's version."""
    for name, (_, _, number) in FILES.items():
        bucket.write(f"inbox/{name}", drawn_png(number))
    bucket.write("inbox/Doe/again.png", drawn_png(1))  # a copy
    bucket.write("inbox/Doe/broken.png", drawn_png(7)[:-40])
    bucket.write("inbox/manifest.csv", manifest("Doe/broken.png,H|Doe-77,S2,1,Dr. A,2026-03-01\n"))
    counts = ingest_inbox(stores, settings)
    assert [counts[name] for name in ("radiograph", "copy", "labels", "quarantined")] == [6, 1, 1, 1]
    champion = promote_drawn(stores, flagged_from=0.01)  # every image has its highlight
    members = stores.snapshots.members_of(champion.snapshot_id)
    register(stores, champion.snapshot_id, scores=[(member.radiograph_id, member.label, 0.25) for member in members])
    open_pixels(stores, settings, snapshot_id=champion.snapshot_id, size_px=SIZE_PX)
    score_all(stores, settings)
    item = stores.worklist.item_of(study_of(stores, "Doe/1.png"))
    stores.worklist.act(
        item["study_key"], "report", actor="r", row_version=item["row_version"], details={"value": "positive"}
    )
    return champion.version


def score_all(stores, settings) -> dict[str, int]:
    plan = scoring_run.plan_scoring(stores)
    for batch in scoring_run.cut_batches(stores, batch_size=100, **plan):
        score_batch(stores, settings, **batch)
    outcomes = scoring_run.reconcile(stores, **plan)
    rank_worklist(stores, settings)
    return outcomes


def sql(stores, statement: str, **parameters):
    with transaction(stores.engine) as connection:
        return connection.execute(text(statement), parameters).all()


def radiograph_of(stores, name: str):
    (row,) = sql(
        stores,
        "SELECT r.* FROM fracture.received_object o JOIN fracture.radiograph r USING (radiograph_id) "
        "WHERE o.object_key = :key",
        key=f"inbox/{name}",
    )
    return row


def study_of(stores, name: str) -> str:
    return radiograph_of(stores, name).study_key


def all_rows(stores) -> set[tuple[str, str]]:
    """(table, row as text) of everything that is kept."""
    tables = sql(stores, "SELECT tablename FROM pg_tables WHERE schemaname = 'fracture'")
    return {
        (table, row.line)
        for (table,) in tables
        for row in sql(stores, f"SELECT CAST(t.* AS text) AS line FROM fracture.{table} t")
    }


def pictures_of(stores, version: int) -> dict[int, tuple[bytes, bytes]]:
    rows = sql(stores, "SELECT radiograph_id, heat_map_key, overlay_key FROM fracture.prediction WHERE probability > 0")
    return {
        row.radiograph_id: tuple(
            read_picture(stores.bucket, key, row.radiograph_id) for key in (row.heat_map_key, row.overlay_key)
        )
        for row in rows
    }


def test_a_patient_leaves_no_trace_but_the_record_and_nobody_else_notices(stores, settings, bucket, hospital):
    names = [name for name in FILES if name.startswith("Doe")]
    images = [radiograph_of(stores, name) for name in names]
    ids = {image.radiograph_id for image in images}
    traces = ["Doe", *(image.sha256 for image in images), *(image.study_key for image in images), images[0].patient_key]
    before, pictures, keys = all_rows(stores), pictures_of(stores, hospital), {one.key for one in bucket.list("")}
    assert all(any(trace in line for _, line in before) for trace in traces) and ids < set(pictures)
    assert any(settings.cache_dir.iterdir())

    counted = erase(stores, settings, patient="H|Doe-77", dry_run=True, **WHO)
    assert all_rows(stores) == before and {one.key for one in bucket.list("")} == keys
    told = erase(stores, settings, patient="H|Doe-77", **WHO)
    assert told == counted | {"caches": 1}
    assert [told[name] for name in ("studies", "radiographs", "inbox_objects", "labels", "final_reads")] == [
        2, 3, 5, 6, 1
    ]  # fmt: skip
    assert {one["version"] for one in told["learned"]} == {1, 2} and told["near_duplicates"] == []

    after = all_rows(stores)
    assert [(table, line) for table, line in after for trace in traces if trace in line] == []
    new = {table for table, _ in after - before}
    assert new == {"erasure", "erased_name"}
    # What went speaks of the patient, and what speaks of others is there, to the letter.
    gone = before - after
    assert {table for table, _ in gone} >= {"radiograph", "received_object", "label", "label_told", "prediction"}
    assert {table for table, _ in gone} >= {"worklist", "worklist_event", "snapshot_member", "evaluation_score"}
    assert [line for _, line in gone if "Poe" in line or "Roe" in line] == []
    assert len([line for table, line in after if table == "radiograph"]) == 3
    left = {one.key for one in bucket.list("")}
    assert {key for key in keys - left if "attention" not in key} == {
        *(f"inbox/{name}" for name in [*names, "Doe/again.png", "Doe/broken.png"]),
        *(image.object_key for image in images),
    }
    assert not any(trace in key for key in left for trace in traces)
    kept = {id_: both for id_, both in pictures.items() if id_ not in ids}
    assert kept and pictures_of(stores, hospital) == kept
    for archive in (key for key in left if key.startswith("attention/")):
        assert not any(f"{id_}.png".encode() in bucket.read(archive) for id_ in ids)
    assert list(settings.cache_dir.iterdir()) == []

    (record,) = sql(stores, "SELECT * FROM fracture.erasure")
    assert (record.actor, record.reason) == ("dpo", "ticket 12")
    assert record.details["radiograph_ids"] == sorted(ids)
    with pytest.raises(UnknownItem):
        erase(stores, settings, patient="H|Doe-77", **WHO)


def test_what_was_erased_does_not_come_back(stores, settings, bucket, hospital):
    erase(stores, settings, patient="H|Doe-77", **WHO)
    bucket.write("inbox/other name.png", drawn_png(2))
    bucket.write("inbox/Doe/new.png", drawn_png(8))
    bucket.write("inbox/manifest.csv", manifest("Doe/new.png,H|Doe-77,S9,1,Dr. A,2026-03-02\n"))
    counts = ingest_inbox(stores, settings)
    assert [counts[name] for name in ("new", "radiograph", "labels", "quarantined")] == [3, 1, 1, 1]
    (refused,) = sql(stores, "SELECT object_key, code FROM fracture.quarantine")
    assert tuple(refused) == ("inbox/other name.png", "erased")
    assert list(bucket.list(f"radiographs/{hashlib.sha256(drawn_png(2)).hexdigest()[:2]}/")) == []
    # A new image of the same patient is one as any other; the old rows of the label file stay out.
    subjects = {row.subject for row in sql(stores, "SELECT subject FROM fracture.label")}
    assert {subject for subject in subjects if "Doe" in subject} == {"inbox/Doe/new.png"}
    assert score_all(stores, settings) == {"radiographs": 4, "scored": 4, "rejected": 0, "missing": 0}
    assert len(stores.radiographs.candidates(as_of=datetime.now(UTC))) == 4
    # The refused object's name goes too, where it is asked for.
    erase(stores, settings, object_key="inbox/other name.png", **WHO)
    assert sql(stores, "SELECT FROM fracture.quarantine") == []
    assert [one.key for one in bucket.list("inbox/other")] == []
    assert ingest_inbox(stores, settings)["new"] == 0


def test_one_study_goes_and_the_patients_other_stays(stores, settings, bucket, hospital):
    later, images = radiograph_of(stores, "Doe/later.png"), radiograph_of(stores, "Doe/1.png")
    told = erase(stores, settings, study=images.study_key[:9], **WHO)
    assert (told["studies"], told["radiographs"]) == (1, 2)
    assert radiograph_of(stores, "Doe/later.png") == later
    assert {one.key for one in bucket.list("inbox/Doe/")} == {"inbox/Doe/broken.png", "inbox/Doe/later.png"}
    told = erase(stores, settings, object_key="inbox/Doe/later.png", whole_patient=True, **WHO)
    assert (told["radiographs"], told["inbox_objects"]) == (1, 2)
    assert list(bucket.list("inbox/Doe/")) == []


def test_an_object_that_has_the_name_now_is_somebody_elses(stores, settings, bucket, hospital):
    bucket.write("inbox/Doe/1.png", drawn_png(9))
    erase(stores, settings, patient="H|Doe-77", **WHO)
    assert [one.key for one in bucket.list("inbox/Doe/")] == ["inbox/Doe/1.png"]
    assert ingest_inbox(stores, settings)["radiograph"] == 1


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


def test_only_the_erasures_own_transaction_opens_the_append_only_tables(stores, settings, hospital):
    erase(stores, settings, patient="H|Doe-77", **WHO)
    for table in ("label", "prediction", "worklist_event", "retried_object", "erasure", "erased_name", "model_event"):
        with pytest.raises(DatabaseRefused, match="append-only"):
            sql(stores, f"DELETE FROM fracture.{table} RETURNING 1")
    with pytest.raises(DatabaseRefused, match="append-only"), transaction(stores.engine) as connection:
        connection.execute(text("INSERT INTO fracture.erasure (actor, reason, details) VALUES ('a', 'b', '{}')"))
        connection.execute(text("UPDATE fracture.prediction SET reason = 'other'"))
    with pytest.raises(DatabaseRefused, match="append-only"), transaction(stores.engine) as connection:
        connection.execute(text("INSERT INTO fracture.erasure (actor, reason, details) VALUES ('a', 'b', '{}')"))
        connection.execute(text("DELETE FROM fracture.model_event"))


def in_background(work) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_it_waits_for_a_worker_that_scores_the_images_and_takes_out_what_that_wrote(stores, settings, hospital):
    image = radiograph_of(stores, "Doe/1.png")
    version = register(stores, sql(stores, "SELECT snapshot_id FROM fracture.snapshot LIMIT 1")[0].snapshot_id).version
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


def test_it_waits_for_an_ingest_and_an_ingest_for_it(stores, settings, hospital):
    with stores.erasures.none_meanwhile():
        erasing = in_background(lambda: erase(stores, settings, patient="H|Doe-77", **WHO))
        time.sleep(0.7)
        assert erasing.is_alive() and radiograph_of(stores, "Doe/1.png")
    erasing.join(20)
    assert not erasing.is_alive() and sql(stores, "SELECT FROM fracture.erasure") != []


def test_pictures_of_others_that_looked_the_same_stay_together(stores, settings, bucket, hospital):
    sql(stores, "UPDATE fracture.radiograph SET near_duplicate_of = NULL, cluster_id = NULL RETURNING 1")
    first, *others = (radiograph_of(stores, f"{name}/1.png").radiograph_id for name in ("Doe", "Poe", "Roe"))
    sql(
        stores,
        "UPDATE fracture.radiograph SET near_duplicate_of = :first, cluster_id = :first "
        "WHERE radiograph_id = ANY(:others) RETURNING 1",
        first=first,
        others=others,
    )
    told = erase(stores, settings, patient="H|Doe-77", **WHO)
    assert told["near_duplicates"] == sorted(others)
    rows = sql(stores, "SELECT radiograph_id, near_duplicate_of, cluster_id FROM fracture.radiograph")
    linked = {row.radiograph_id: (row.near_duplicate_of, row.cluster_id) for row in rows}
    assert (linked[min(others)], linked[max(others)]) == ((None, None), (min(others), min(others)))


def test_what_cannot_be_told_apart_is_refused(stores, settings, bucket, hospital):
    before = all_rows(stores)
    with pytest.raises(UnknownItem, match="issuer"):
        erase(stores, settings, patient="Doe-77", **WHO)  # of no issuer: another patient
    with pytest.raises(UnknownItem):
        erase(stores, settings, study="no such study", **WHO)
    with pytest.raises(UnknownItem, match="label file"):
        erase(stores, settings, object_key="inbox/manifest.csv", **WHO)
    with pytest.raises(NotAllowed):
        erase(stores, settings, **WHO)
    with pytest.raises(NotAllowed):
        erase(stores, settings, study="a", patient="b", **WHO)
    assert all_rows(stores) == before
    study, other = study_of(stores, "Doe/1.png"), patient_key_of(settings.site_secret_bytes, "H|Roe-79")
    sql(
        stores,
        "UPDATE fracture.radiograph SET study_key = :study WHERE patient_key = :other RETURNING 1",
        study=study,
        other=other,
    )
    mixed = all_rows(stores)
    with pytest.raises(Conflict, match="another"):
        erase(stores, settings, patient="H|Doe-77", **WHO)
    with pytest.raises(NotAllowed, match="2 patients"):
        erase(stores, settings, study=study, whole_patient=True, **WHO)
    assert all_rows(stores) == mixed
    assert erase(stores, settings, study=study, **WHO)["radiographs"] == 3


def test_a_file_name_that_others_have_too_keeps_its_label(stores, settings, bucket):
    for number, folder in enumerate(("one", "two")):
        bucket.write(f"inbox/{folder}/same.jpg.png", drawn_png(number))
    columns = "image_id,hand,leg,hip,shoulder,mixed,hardware,multiscan,fractured,fracture_count,frontal,lateral,oblique"
    bucket.write("inbox/dataset.csv", f"{columns}\nsame.jpg.png,1,0,0,0,0,0,0,1,1,1,0,0\n".encode())
    ingest_inbox(stores, settings)
    labels = sql(stores, "SELECT * FROM fracture.label")
    assert [label.subject_kind for label in labels] == ["file_name"]
    told = erase(stores, settings, object_key="inbox/one/same.jpg.png", **WHO)
    assert (told["radiographs"], told["labels"]) == (1, 0)
    assert sql(stores, "SELECT * FROM fracture.label") == labels
    snapshot = stores.radiographs.candidates(as_of=datetime.now(UTC))
    assert [one.sha256 for one in snapshot] == [hashlib.sha256(drawn_png(1)).hexdigest()]


def test_a_training_goes_on_without_what_was_erased_after_its_freeze(stores, settings, bucket, hospital):
    snapshot_id = freeze(stores)
    whole = open_pixels(stores, settings, snapshot_id=snapshot_id, size_px=SIZE_PX)
    erase(stores, settings, patient="H|Doe-77", **WHO)
    rest = open_pixels(stores, settings, snapshot_id=snapshot_id, size_px=SIZE_PX)
    assert (len(whole.pixels), len(rest.pixels), rest.not_readable) == (6, 3, ())
    assert sum(len(rest.rows_of(split)) for split in Split) == 3
