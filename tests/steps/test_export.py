"""A study's results in a folder: as it is stored here, or as the system that sent it knows it."""

import errno
import hashlib
import io
import json
import time
from pathlib import Path

import pydicom
import pytest

from fracture_ml.core.errors import DiskFull, NotExportable, UnknownItem
from fracture_ml.imaging.deidentify import hashed_uid
from fracture_ml.steps.export import export_results
from fracture_ml.steps.ingest import ingest_inbox
from tests.imaging.made_files import bytes_of, dicom_dataset, limb
from tests.steps.drawn_backlog import drawn_png, promote_drawn
from tests.steps.small_hospital import score_all, study_of

NAMES = {"PatientName": "Doe^Jane", "PatientID": "MRN-4711", "AccessionNumber": "ACC-9", "StudyDate": "20260227"}
IDENTITIES = (b"Doe", b"MRN-4711", b"ACC-9", b"20260227")


def view(number: int) -> pydicom.Dataset:
    dataset = dicom_dataset(limb(seed=number).astype("uint16") * 16, **NAMES)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
    return dataset


@pytest.fixture
def scored(stores, settings, bucket):
    """Two views of one DICOM study and a PNG, all of them flagged."""
    for number in (1, 2):
        bucket.write(f"inbox/Doe/{number}.dcm", bytes_of(view(number)))
    bucket.write("inbox/a.png", drawn_png(1))
    assert ingest_inbox(stores, settings)["radiograph"] == 3
    promote_drawn(stores, flagged_from=0.0)
    score_all(stores, settings)
    return study_of(stores, "Doe/1.dcm")


def files_of(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def counts_of(**counts) -> dict[str, int]:
    names = ("images", "highlights", "reports", "captures", "not_dicom", "gone", "unnamed")
    return dict.fromkeys(names, 0) | counts


def test_without_an_identity_nothing_that_is_written_names_a_person(stores, settings, scored, tmp_path):
    counts = export_results(stores, settings, scored, folder=tmp_path / "out", dicom=True)
    assert counts == counts_of(images=2, highlights=2, reports=1, captures=2)
    files = files_of(tmp_path / "out")
    assert sorted(files) == [
        "image-1-highlight.dcm", "image-1-highlight.png", "image-2-highlight.dcm", "image-2-highlight.png",
        "report-1.dcm", "results.json",
    ]  # fmt: skip
    assert not [(name, word) for name, data in files.items() for word in IDENTITIES if word in data]
    document = json.loads(files["results.json"])
    secret = settings.site_secret_bytes
    named = [one["referenced_image"]["sop_instance_uid"] for one in document["imaging_measurements"]]
    originals = [hashlib.sha256(bytes_of(view(number))).hexdigest().encode() for number in (1, 2)]
    assert not [(name, one) for name, data in files.items() for one in originals if one in data]
    assert {one["scored_at"] for one in document["imaging_measurements"]} == {None}  # it would tell the day
    assert named == [hashed_uid(secret, "1.2.3.1"), hashed_uid(secret, "1.2.3.2")]
    report = pydicom.dcmread(io.BytesIO(files["report-1.dcm"]))
    assert report.PatientIdentityRemoved == "YES"
    assert report.ContentDate == report.StudyDate  # the true day would tell by how much the study's was moved


def test_with_an_identity_they_go_to_the_study_that_was_sent(stores, settings, scored, tmp_path):
    folder = tmp_path / "out"
    counts = export_results(stores, settings, scored, folder=folder, dicom=True, identified=True)
    assert counts == counts_of(images=2, highlights=2, reports=1, captures=2)
    assert folder.stat().st_mode & 0o077 == 0, "its owner's alone"
    original = view(1)
    for name in ("report-1.dcm", "image-1-highlight.dcm"):
        written = pydicom.dcmread(folder / name)
        for keyword in ("PatientName", "PatientID", "AccessionNumber", "StudyDate", "StudyInstanceUID"):
            assert written[keyword].value == original[keyword].value, (name, keyword)
    assert "PatientIdentityRemoved" not in written
    capture = pydicom.dcmread(folder / "image-2-highlight.dcm")
    assert capture.SourceImageSequence[0].ReferencedSOPInstanceUID == "1.2.3.2"


@pytest.mark.parametrize("identified", [False, True])
def test_an_archive_gets_the_same_objects_again(stores, settings, scored, bucket, tmp_path, monkeypatch, identified):
    def export() -> dict[str, bytes]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        export_results(stores, settings, scored, folder=folder, dicom=True, identified=identified)
        return files_of(folder)

    first = export()
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert export() == first
    finally:
        monkeypatch.undo()
        time.tzset()
    bucket.write("inbox/Doe/3.dcm", bytes_of(view(3)))  # a late view makes another report, and no other capture
    ingest_inbox(stores, settings)
    score_all(stores, settings)
    later = export()
    kept = {name for name in first if later[name] == first[name]}
    assert kept == {name for name in first if name.startswith("image-")}
    uids = {pydicom.dcmread(io.BytesIO(of["report-1.dcm"])).SOPInstanceUID for of in (first, later)}
    assert len(uids) == 2


def test_an_original_that_is_another_now_or_gone_is_not_guessed(stores, settings, bucket, scored, tmp_path):
    bucket.write("inbox/Doe/1.dcm", bytes_of(dicom_dataset(PatientName="Roe^Rita", PatientID="MRN-1")))
    bucket.delete("inbox/Doe/2.dcm")
    counts = export_results(stores, settings, scored, folder=tmp_path, dicom=True, identified=True)
    assert counts == counts_of(images=2, highlights=2, gone=2)
    assert not any(b"Roe" in data for data in files_of(tmp_path).values())


def test_a_copy_of_the_original_will_do(stores, settings, bucket, scored, tmp_path):
    bucket.write("inbox/Doe/copy.dcm", bytes_of(view(1)))
    assert ingest_inbox(stores, settings)["copy"] == 1
    bucket.delete("inbox/Doe/1.dcm")
    counts = export_results(stores, settings, scored, folder=tmp_path, dicom=True, identified=True)
    assert counts["gone"] == 0 and counts["reports"] == 1


def test_what_is_no_dicom_is_in_the_json_alone(stores, settings, scored, tmp_path):
    study = study_of(stores, "a.png")
    counts = export_results(stores, settings, study, folder=tmp_path, dicom=True, identified=True)
    assert counts == counts_of(images=1, highlights=1, not_dicom=1)
    assert sorted(files_of(tmp_path)) == ["image-1-highlight.png", "results.json"]


def test_a_study_of_two_patients_is_not_handed_to_either(stores, settings, bucket, scored, tmp_path):
    """A header that was corrected after the image had been sent."""
    corrected = view(4)
    corrected.PatientID = "MRN-2"
    bucket.write("inbox/Roe/4.dcm", bytes_of(corrected))
    ingest_inbox(stores, settings)
    score_all(stores, settings)
    with pytest.raises(NotExportable, match="several patients"):
        export_results(stores, settings, scored, folder=tmp_path / "out", dicom=True, identified=True)
    assert list(tmp_path.iterdir()) == []
    assert export_results(stores, settings, scored, folder=tmp_path / "out", identified=True)["images"] == 3


def test_a_dicom_without_a_name_is_in_the_json_alone(stores, settings, bucket, tmp_path):
    nameless = view(1)
    del nameless.SeriesInstanceUID
    bucket.write("inbox/Doe/1.dcm", bytes_of(nameless))
    ingest_inbox(stores, settings)
    promote_drawn(stores, flagged_from=0.0)
    score_all(stores, settings)
    study = study_of(stores, "Doe/1.dcm")
    counts = export_results(stores, settings, study, folder=tmp_path / "out", dicom=True, identified=True)
    assert counts == counts_of(images=1, highlights=1, unnamed=1)


def test_what_a_rolled_back_version_said_is_not_handed_on(stores, settings, scored, tmp_path):
    promote_drawn(stores, seed=1, flagged_from=0.0)
    score_all(stores, settings)
    seen = stores.worklist.item_of(scored)["row_version"]
    stores.worklist.act(scored, "report", actor="r", row_version=seen, details={"value": "negative"})
    stores.registry.roll_back(actor="a test", reason="a test")
    score_all(stores, settings)  # the study keeps the score that its reader saw
    with pytest.raises(NotExportable, match="rolled back"):
        export_results(stores, settings, scored, folder=tmp_path / "out")


def test_a_full_disk_leaves_nothing(stores, settings, scored, tmp_path, monkeypatch):
    write_bytes = Path.write_bytes

    def fill_up(path: Path, data: bytes) -> int:
        if path.name == "image-2-highlight.png":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_bytes(path, data)

    monkeypatch.setattr(Path, "write_bytes", fill_up)
    with pytest.raises(DiskFull):
        export_results(stores, settings, scored, folder=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_study_writes_nothing(stores, settings, scored, tmp_path):
    with pytest.raises(UnknownItem):
        export_results(stores, settings, "nobody's", folder=tmp_path / "out", dicom=True)
    assert not (tmp_path / "out").exists()


def test_two_studies_do_not_lie_in_one_folder(stores, settings, scored, tmp_path):
    export_results(stores, settings, scored, folder=tmp_path)
    before = files_of(tmp_path)
    with pytest.raises(NotExportable, match="name a new one"):
        export_results(stores, settings, study_of(stores, "a.png"), folder=tmp_path)
    assert files_of(tmp_path) == before
