"""A patient who is taken out leaves no trace but the record, and nobody else notices."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from fracture_ml.core.errors import (
    Conflict,
    DatabaseRefused,
    NotAllowed,
    ObjectNotFound,
    UnknownItem,
)
from fracture_ml.core.recipe import StudyPlan, TrainRecipe
from fracture_ml.core.records import Split
from fracture_ml.data.labels import patient_key_of
from fracture_ml.steps import tune
from fracture_ml.steps.erase import erase
from fracture_ml.steps.ingest import ingest_inbox
from fracture_ml.steps.pictures import read_picture, write_pictures
from fracture_ml.steps.pixels import open_pixels
from fracture_ml.steps.presets import NightlyWork
from fracture_ml.steps.worklist import rank_worklist
from fracture_ml.stores.bucket import Bucket
from fracture_ml.stores.database import transaction
from tests.imaging.made_files import bytes_of, dicom_dataset
from tests.steps.drawn_backlog import SIZE_PX, drawn_png
from tests.steps.refusing import Refusing
from tests.steps.small_hospital import (
    FILES,
    HEADER,
    WHO,
    all_rows,
    manifest,
    pictures_of,
    radiograph_of,
    score_all,
    sql,
    study_of,
)
from tests.stores.stored_rows import freeze, register


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
    assert told == counted | {"caches": 1, "caches_left": 0}
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


def test_who_has_the_name_now_is_somebody_else(stores, settings, bucket, hospital):
    bucket.write("inbox/Doe/1.png", drawn_png(9))  # overwritten, not taken in yet
    erase(stores, settings, patient="H|Doe-77", **WHO)
    assert [one.key for one in bucket.list("inbox/Doe/")] == ["inbox/Doe/1.png"]
    bucket.write("inbox/manifest.csv", manifest("Doe/1.png,H|Woe-80,S5,1,Dr. A,2026-03-02\n"))
    assert ingest_inbox(stores, settings)["radiograph"] == 1
    now = radiograph_of(stores, "Doe/1.png")
    assert now.patient_key == patient_key_of(settings.site_secret_bytes, "H|Woe-80")
    assert sql(stores, "SELECT value FROM fracture.standing_label WHERE radiograph_id = :id", id=now.radiograph_id) == [
        ("positive",)
    ]


def test_an_objects_name_stands_for_who_has_it_now(stores, settings, bucket):
    for number in (1, 2):
        bucket.write("inbox/1.png", drawn_png(number))
        ingest_inbox(stores, settings)
    assert erase(stores, settings, object_key="inbox/1.png", **WHO)["radiographs"] == 1
    (left,) = sql(stores, "SELECT sha256 FROM fracture.radiograph")
    assert left.sha256 == hashlib.sha256(drawn_png(1)).hexdigest() and list(bucket.list("inbox/")) == []


def test_a_label_of_a_folder_that_two_files_told_stays_with_the_other(stores, settings, bucket):
    for number in (1, 2):  # the same name, one after the other
        bucket.write("inbox/fractured/1.png", drawn_png(number))
        ingest_inbox(stores, settings)
    first, second = sql(stores, "SELECT radiograph_id, study_key FROM fracture.radiograph ORDER BY 1")
    erase(stores, settings, study=first.study_key, **WHO)
    assert sql(stores, "SELECT radiograph_id, value FROM fracture.standing_label") == [
        (second.radiograph_id, "positive")
    ]
    assert [one.key for one in bucket.list("inbox/")] == ["inbox/fractured/1.png"]


def test_what_a_label_file_took_back_is_no_conflict_and_no_others_label_goes(stores, settings, bucket, hospital):
    bucket.write("inbox/manifest.csv", manifest().replace(b"Roe/1.png,H|Roe-79,S4", b"Roe/1.png,H|Doe-77,S4"))
    ingest_inbox(stores, settings)
    bucket.write("inbox/manifest.csv", manifest())
    ingest_inbox(stores, settings)
    assert erase(stores, settings, patient="H|Doe-77", **WHO)["radiographs"] == 3
    bucket.write("inbox/manifest.csv", manifest() + b"\n")
    ingest_inbox(stores, settings)
    roe = radiograph_of(stores, "Roe/1.png").radiograph_id
    assert sql(stores, "SELECT FROM fracture.standing_label WHERE radiograph_id = :id", id=roe) != []


def test_a_study_that_a_label_file_told_too_late_goes_too(stores, settings, bucket):
    bucket.write("inbox/a.png", drawn_png(1))
    ingest_inbox(stores, settings)
    rank_worklist(stores, settings)
    bucket.write("inbox/b.png", drawn_png(2))
    bucket.write("inbox/m.csv", (HEADER + "a.png,P,S,1,,\nb.png,P,S,0,,\n").encode())
    assert ingest_inbox(stores, settings)["kept_apart"] == 1
    told = erase(stores, settings, study=study_of(stores, "b.png"), **WHO)
    assert told["radiographs"] == 2 and list(bucket.list("radiographs/")) == []


def test_labels_of_the_patient_that_speak_of_somebody_elses_image_are_refused(stores, settings, bucket):
    bucket.write("inbox/a.dcm", bytes_of(dicom_dataset(PatientID="77", IssuerOfPatientID="H")))
    bucket.write("inbox/m.csv", (HEADER + "a.dcm,77,S,1,,\n").encode())
    ingest_inbox(stores, settings)
    with pytest.raises(Conflict, match="somebody else's"):
        erase(stores, settings, patient="77", **WHO)
    told = erase(stores, settings, object_key="inbox/a.dcm", whole_patient=True, **WHO)
    assert (told["radiographs"], told["labels"]) == (1, 1)


def test_a_broken_file_does_not_come_back_either(stores, settings, bucket, hospital):
    broken = bucket.read("inbox/Doe/broken.png")
    erase(stores, settings, patient="H|Doe-77", **WHO)
    bucket.write("inbox/again.png", broken)
    ingest_inbox(stores, settings)
    assert sql(stores, "SELECT object_key, code FROM fracture.quarantine") == [("inbox/again.png", "erased")]


def test_an_object_that_the_bucket_does_not_hand_over_can_be_taken_out(stores, settings, bucket):
    for number, name in enumerate(("Doe", "other")):
        bucket.write(f"inbox/{name}.png", drawn_png(number))
    refusing = Bucket(Refusing(bucket._client, "AccessDenied", {"inbox/Doe.png"}, status=403), bucket.name)
    guarded = replace(stores, bucket=refusing)
    assert ingest_inbox(guarded, settings)["quarantined"] == 1
    assert erase(guarded, settings, object_key="inbox/Doe.png", **WHO)["inbox_objects"] == 1
    assert [one.key for one in bucket.list("inbox/")] == ["inbox/other.png"]


def test_what_a_killed_worker_left_goes_and_a_damaged_archive_stops_nothing(stores, settings, bucket, hospital):
    ids = [radiograph_of(stores, name).radiograph_id for name in ("Doe/1.png", "Poe/1.png")]
    folder = f"attention/{hospital}/{ids[0] // 256}"
    write_pictures(bucket, f"{folder}/1-9-heat_maps.zip", {id_: b"a picture" for id_ in ids})
    bucket.write(f"{folder}/{ids[0]}-overlay.png", b"a picture")
    bucket.write(f"{folder}/{ids[1]}-overlay.png", b"another's")
    bucket.write(f"{folder}/2-9-heat_maps.zip", b"no archive")
    erase(stores, settings, patient="H|Doe-77", **WHO)
    left = {one.key.removeprefix(f"{folder}/") for one in bucket.list(f"{folder}/")}
    assert {f"{ids[1]}-overlay.png", "1-9-heat_maps.zip"} <= left
    assert not left & {f"{ids[0]}-overlay.png", "2-9-heat_maps.zip"}
    assert read_picture(bucket, f"{folder}/1-9-heat_maps.zip", ids[1]) == b"a picture"
    with pytest.raises(ObjectNotFound):
        read_picture(bucket, f"{folder}/1-9-heat_maps.zip", ids[0])


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


def test_what_is_kept_beside_goes_too(stores, settings, bucket, hospital):
    study = study_of(stores, "Doe/later.png")
    sql(stores, "INSERT INTO fracture.unlisted_study (study_key, images) VALUES (:key, 1) RETURNING 1", key=study)
    ingest_inbox(stores, settings, retry_quarantined="truncated")
    sql(
        stores,
        "INSERT INTO fracture.attempted_object (object_key, etag, attempts) VALUES (:key, 'e', 1) RETURNING 1",
        key="inbox/Doe/later.png",
    )
    assert len([line for table, line in all_rows(stores) if table == "retried_object" and "Doe" in line]) == 1
    erase(stores, settings, patient="H|Doe-77", **WHO)
    assert [line for _, line in all_rows(stores) if "Doe" in line or study in line] == []


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


def test_a_picture_that_had_its_group_from_the_patient_gets_one_of_its_own(stores, settings, bucket):
    bucket.write("inbox/Doe.png", drawn_png(1))
    bucket.write("inbox/other.png", drawn_png(2))
    bucket.write("inbox/m.csv", (HEADER + "Doe.png,H|Doe-77,S1,1,,\nother.png,,,0,,\n").encode())
    ingest_inbox(stores, settings)
    doe, other = radiograph_of(stores, "Doe.png"), radiograph_of(stores, "other.png")
    sql(
        stores,
        "UPDATE fracture.radiograph SET near_duplicate_of = :doe, cluster_id = :doe, group_key = :group "
        "WHERE radiograph_id = :other RETURNING 1",
        doe=doe.radiograph_id,
        other=other.radiograph_id,
        group=doe.group_key,
    )
    erase(stores, settings, patient="H|Doe-77", **WHO)
    assert radiograph_of(stores, "other.png").group_key == f"image:{other.sha256}"


def test_what_cannot_be_told_apart_is_refused(stores, settings, bucket, hospital):
    before = all_rows(stores)
    with pytest.raises(UnknownItem, match="issuer"):
        erase(stores, settings, patient="Doe-77", **WHO)  # of no issuer: another patient
    with pytest.raises(UnknownItem):
        erase(stores, settings, study="no such study", **WHO)
    with pytest.raises(UnknownItem, match="label file"):
        erase(stores, settings, object_key="inbox/manifest.csv", **WHO)
    for study in ("", "3f9a2"):
        with pytest.raises(NotAllowed, match="6 characters"):
            erase(stores, settings, study=study, **WHO)
    with pytest.raises(NotAllowed):
        erase(stores, settings, **WHO)
    with pytest.raises(NotAllowed):
        erase(stores, settings, study="a study", patient="b", **WHO)
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


def test_a_training_goes_on_without_what_was_erased_after_its_freeze(stores, settings, hospital, monkeypatch):
    monkeypatch.setattr(tune, "run_study", lambda *_, **__: None)
    work = NightlyWork(study=StudyPlan(image_size_px=SIZE_PX), recipe=TrainRecipe(initial_weights="none"))
    snapshot_id = freeze(stores, training=5)
    before = tune.tune(stores, settings, snapshot_id=snapshot_id, work=work)["study_name"]
    whole = open_pixels(stores, settings, snapshot_id=snapshot_id, size_px=SIZE_PX)
    erase(stores, settings, patient="H|Doe-77", **WHO)
    rest = open_pixels(stores, settings, snapshot_id=snapshot_id, size_px=SIZE_PX)
    assert (len(whole.pixels), len(rest.pixels), rest.not_readable) == (6, 3, ())
    trained_on = len(rest.rows_of(Split.TRAIN))
    # Other data than those that the study began with: it begins anew.
    assert tune.tune(stores, settings, snapshot_id=snapshot_id, work=work)["study_name"] == f"{before}-of-{trained_on}"
    # Whoever had it open before registers what is left of it.
    scores = [(member.radiograph_id, member.label, 0.5) for member in whole.members]
    version = register(stores, snapshot_id, scores=scores).version
    assert len(stores.registry.evaluation_scores_of(version)) == 3
