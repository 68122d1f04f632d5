"""A study's results in a folder: as it is stored here, or as the system that sent it knows it."""

import io
import json

import pydicom
import pytest

from fracture_ml.core.errors import NotExportable, UnknownItem
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
    nothing = {"images": 0, "highlights": 0, "reports": 0, "captures": 0, "not_dicom": 0, "original_gone": 0}
    return nothing | counts


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
    assert named == [hashed_uid(secret, "1.2.3.1"), hashed_uid(secret, "1.2.3.2")]
    report = pydicom.dcmread(io.BytesIO(files["report-1.dcm"]))
    assert report.PatientIdentityRemoved == "YES"
    assert report.ContentDate == report.StudyDate  # the true day would tell by how much the study's was moved


def test_with_an_identity_they_go_to_the_study_that_was_sent(stores, settings, scored, tmp_path):
    counts = export_results(stores, settings, scored, folder=tmp_path, dicom=True, identified=True)
    assert counts == counts_of(images=2, highlights=2, reports=1, captures=2)
    original = view(1)
    for name in ("report-1.dcm", "image-1-highlight.dcm"):
        written = pydicom.dcmread(tmp_path / name)
        for keyword in ("PatientName", "PatientID", "AccessionNumber", "StudyDate", "StudyInstanceUID"):
            assert written[keyword].value == original[keyword].value, (name, keyword)
    assert "PatientIdentityRemoved" not in written
    capture = pydicom.dcmread(tmp_path / "image-2-highlight.dcm")
    assert capture.SourceImageSequence[0].ReferencedSOPInstanceUID == "1.2.3.2"


def test_an_archive_gets_the_same_objects_again(stores, settings, scored, tmp_path):
    for identified in (False, True):
        folders = [tmp_path / f"{identified}-{turn}" for turn in (1, 2)]
        for folder in folders:
            export_results(stores, settings, scored, folder=folder, dicom=True, identified=identified)
        first, second = map(files_of, folders)
        assert first == second


def test_an_original_that_is_another_now_or_gone_is_not_guessed(stores, settings, bucket, scored, tmp_path):
    bucket.write("inbox/Doe/1.dcm", bytes_of(dicom_dataset(PatientName="Roe^Rita", PatientID="MRN-1")))
    bucket.delete("inbox/Doe/2.dcm")
    counts = export_results(stores, settings, scored, folder=tmp_path, dicom=True, identified=True)
    assert counts == counts_of(images=2, highlights=2, original_gone=2)
    assert not any(b"Roe" in data for data in files_of(tmp_path).values())


def test_a_copy_of_the_original_will_do(stores, settings, bucket, scored, tmp_path):
    bucket.write("inbox/Doe/copy.dcm", bytes_of(view(1)))
    assert ingest_inbox(stores, settings)["copy"] == 1
    bucket.delete("inbox/Doe/1.dcm")
    counts = export_results(stores, settings, scored, folder=tmp_path, dicom=True, identified=True)
    assert counts["original_gone"] == 0 and counts["reports"] == 1


def test_what_is_no_dicom_is_in_the_json_alone(stores, settings, scored, tmp_path):
    study = study_of(stores, "a.png")
    counts = export_results(stores, settings, study, folder=tmp_path, dicom=True, identified=True)
    assert counts == counts_of(images=1, highlights=1, not_dicom=1)
    assert sorted(files_of(tmp_path)) == ["image-1-highlight.png", "results.json"]


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
