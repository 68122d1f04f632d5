"""Results for other systems: what the JSON says, and DICOM objects as another system reads them."""

import copy
import importlib
import io
import json
import logging
import sys
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pydicom
import pytest
from highdicom.sr import srread
from pydicom.errors import BytesLengthException

from fracture_ml.core.errors import NotExportable
from fracture_ml.core.records import Box, ModelVersion, OperatingPoint, OperatingPoints
from fracture_ml.imaging.deidentify import hashed_uid
from fracture_ml.scoring import dicom_results
from fracture_ml.scoring.dicom_results import highlight_capture, structured_report
from fracture_ml.scoring.results import FRACTURE, ImageResult, ReferencedImage, to_json
from tests.imaging.made_files import bytes_of, dicom_dataset

MODEL = ModelVersion(
    version=7, snapshot_id="5" * 64, recipe_id="6" * 64, recipe={}, study_name=None, bundle_key="k",
    bundle_sha256="a" * 64, metrics={}, code_version="1.2", created_at=datetime(2026, 3, 1, tzinfo=UTC),
    operating_points=OperatingPoints(t_sensitivity=0.125, t_specificity=0.75, target_sensitivity=0.95,
                                     target_specificity=0.95),
)  # fmt: skip
MOMENT = datetime(2026, 3, 2, 10, 20, 30)
SOURCE = dicom_dataset(PatientName="Doe^Jane", PatientID="77", StudyID="4", AccessionNumber="A12", PatientSex="F")


def uid_of(text: str) -> str:
    return hashed_uid(b"a site's secret, long enough", text)


def image(source=SOURCE, **changes) -> ImageResult:
    """An urgent image of 80 x 96 pixels with a box."""
    told = {
        "number": 1,
        "names": {"sha256": "e" * 64},
        "referenced": ReferencedImage(
            sop_class_uid=source.SOPClassUID,
            sop_instance_uid=source.SOPInstanceUID,
            series_instance_uid=source.SeriesInstanceUID,
            study_instance_uid=source.StudyInstanceUID,
        ),
        "width_px": 80,
        "height_px": 96,
        "model": MODEL,
        "probability": 0.875,
        "operating_point": OperatingPoint.URGENT,
        "reason": None,
        "box": Box(x=10.0, y=20.0, width=30.0, height=40.0),
        "scored_at": datetime(2026, 3, 2, 9, 20, 30, tzinfo=UTC),
    }
    return ImageResult(**told | changes)


BELOW = {"probability": 0.0625, "operating_point": OperatingPoint.BELOW, "box": None}
UNSCORED = {"probability": None, "operating_point": None, "box": None, "reason": "truncated: It ends early."}


def report_of(*images: ImageResult, sources=None, **options):
    """As another system reads it. Each image is one of its own, where no sources are given."""
    if sources is None:
        sources = []
        for number in range(1, len(images) + 1):
            source = copy.deepcopy(SOURCE)
            source.SOPInstanceUID = f"{SOURCE.SOPInstanceUID}.{number}"
            sources.append(source)
        images = [
            replace(one, referenced=replace(one.referenced, sop_instance_uid=source.SOPInstanceUID))
            for one, source in zip(images, sources, strict=True)
        ]
    return srread(io.BytesIO(structured_report(images, sources, **{"uid_of": uid_of, "moment": MOMENT} | options)))


def capture_of(source, picture=None, **changes):
    one = replace(image(source), **changes)
    picture = np.zeros((48, 40, 3), np.uint8) if picture is None else picture
    return pydicom.dcmread(io.BytesIO(highlight_capture(one, source, picture, uid_of=uid_of, moment=MOMENT)))


def said_in(group) -> dict[str, str]:
    return {one.name.meaning: one.value.meaning for one in group.get_qualitative_evaluations()}


def test_only_what_is_flagged_is_a_finding_in_the_json():
    document = to_json([image(), image(number=2, **BELOW), image(number=3, **UNSCORED)], study_key="a study")
    urgent, below, unscored = document["imaging_measurements"]
    assert [one["finding"] for one in (urgent, below, unscored)] == [FRACTURE._asdict(), None, None]
    assert urgent["measurements"][0]["value"] == 0.875 and below["measurements"][0]["value"] == 0.0625
    assert unscored["measurements"] == [] and unscored["reason"] == "truncated: It ends early."
    words = [one["evaluations"][0]["value"]["meaning"] for one in (urgent, below, unscored)]
    assert words == ["urgent", "no finding flagged, which rules nothing out", "AI unavailable"]
    assert urgent["region"]["points"] == [(10, 20), (40, 20), (40, 60), (10, 60), (10, 20)]
    assert urgent["region"]["is"]["meaning"] == "AI attention, not a lesion boundary"
    assert urgent["algorithm"]["version"] == "7" and "urgent from 0.750000" in urgent["algorithm"]["parameters"]
    assert urgent["referenced_image"]["sop_instance_uid"] == SOURCE.SOPInstanceUID
    assert urgent["scored_at"] == "2026-03-02T09:20:30+00:00" and document["study_key"] == "a study"
    json.dumps(document)


def test_an_image_without_names_is_in_the_json_by_its_hash():
    (one,) = to_json([image(referenced=None)])["imaging_measurements"]
    assert one["referenced_image"] == {"sha256": "e" * 64, "width_px": 80, "height_px": 96}


def test_a_box_that_reaches_over_the_edge_ends_there():
    assert image(box=Box(x=-3.0, y=90.0, width=200.0, height=20.0)).corners[:3] == [(0, 90), (80, 90), (80, 96)]
    assert image(box=Box(x=80.0, y=10.0, width=5.0, height=20.0)).corners is None


def test_another_system_reads_the_report():
    report = report_of(image(), image(number=2, **BELOW), image(number=3, **UNSCORED))
    assert (report.PatientName, report.PatientID, report.StudyInstanceUID) == (
        "Doe^Jane",
        "77",
        SOURCE.StudyInstanceUID,
    )
    assert (report.ContentDate, report.ContentTime) == ("20260302", "102030")
    assert (report.CompletionFlag, report.VerificationFlag, report.PreliminaryFlag) == (
        "COMPLETE",
        "UNVERIFIED",
        "PRELIMINARY",
    )
    (urgent,) = report.content.get_planar_roi_measurement_groups()
    assert urgent.finding_type.value == FRACTURE.value and urgent.tracking_identifier == "image 1"
    assert urgent.get_measurements()[0].value == 0.875
    assert said_in(urgent) == {
        "What the AI says": "urgent",
        "What the region is": "AI attention, not a lesion boundary",
        "What it may be used for": "Research use only, not a medical device",
    }
    np.testing.assert_array_equal(urgent.roi.value, [(10, 20), (40, 20), (40, 60), (10, 60), (10, 20)])
    below, unscored = report.content.get_image_measurement_groups()
    assert below.finding_type is None and below.get_measurements()[0].value == 0.0625
    assert unscored.finding_type is None and unscored.get_measurements() == []
    assert said_in(unscored)["What the AI says"] == "AI unavailable"


@pytest.mark.parametrize(
    ("characters", "name"),
    [
        ("ISO_IR 100", "Müller^Jürgen"),
        ("ISO_IR 6", "Doe^Jane"),
        ("", "Doe^Jane"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
    ],
)
def test_a_name_in_other_letters_stays_that_name(characters, name):
    source = dicom_dataset(SpecificCharacterSet=characters, PatientName=name)
    read = pydicom.dcmread(io.BytesIO(bytes_of(source)), stop_before_pixels=True)
    assert report_of(image(read), sources=[read]).PatientName == name
    assert capture_of(read).PatientName == name


def test_the_same_results_are_the_same_object_and_others_another():
    first = report_of(image())
    assert report_of(image()).SOPInstanceUID == first.SOPInstanceUID
    others = [
        report_of(image(probability=0.5)),
        report_of(image(model=replace(MODEL, version=8))),
        report_of(image(**UNSCORED)),
        report_of(image(box=Box(x=10.0, y=20.0, width=31.0, height=40.0))),
        report_of(image(number=2)),
        report_of(image(), moment=MOMENT.replace(second=31)),
    ]
    assert len({one.SOPInstanceUID for one in (first, *others)}) == 7
    captures = [
        capture_of(SOURCE),
        capture_of(SOURCE),
        capture_of(SOURCE, np.ones((48, 40, 3), np.uint8)),
        capture_of(SOURCE, number=2),
    ]
    assert len({one.SOPInstanceUID for one in captures}) == 3
    assert all(one.file_meta.MediaStorageSOPInstanceUID == one.SOPInstanceUID for one in (first, *captures))


def test_images_of_two_patients_are_not_put_into_one_report():
    other = dicom_dataset(PatientName="Roe^Rita", PatientID="88")
    other.SOPInstanceUID = "1.2.3.4"
    with pytest.raises(NotExportable, match="several patients") as raised:
        report_of(image(), image(other), sources=[SOURCE, other])
    assert "Roe" not in str(raised.value)
    elsewhere = dicom_dataset(PatientID="77", IssuerOfPatientID="HOSPITAL B")
    elsewhere.SOPInstanceUID = "1.2.3.5"
    with pytest.raises(NotExportable, match="several patients"):
        report_of(image(), image(elsewhere), sources=[SOURCE, elsewhere])


def test_two_files_that_say_they_are_one_image_are_refused():
    with pytest.raises(NotExportable, match="the same DICOM image"):
        report_of(image(), image(number=2, **BELOW), sources=[SOURCE, SOURCE])


def test_a_highlight_is_a_capture_of_the_sources_study():
    picture = np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    source = dicom_dataset(
        PatientName="Doe^Jane", PatientID="77", IssuerOfPatientID="HOSPITAL B", ImageLaterality="L",
        PatientOrientation=["L", "F"], BodyPartExamined="HAND", BurnedInAnnotation="NO",
    )  # fmt: skip
    capture = capture_of(source, picture)
    np.testing.assert_array_equal(capture.pixel_array, picture)
    assert (capture.PatientName, capture.StudyInstanceUID) == ("Doe^Jane", source.StudyInstanceUID)
    assert (capture.PatientID, capture.IssuerOfPatientID) == ("77", "HOSPITAL B")
    assert capture.SeriesInstanceUID != source.SeriesInstanceUID
    assert capture.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert (capture.Laterality, list(capture.PatientOrientation), capture.Modality) == ("L", ["L", "F"], "OT")
    assert capture.BodyPartExamined == "HAND" and capture.BurnedInAnnotation == "NO"
    assert "not a lesion boundary" in capture.DerivationDescription and "Research use" in capture.ImageComments


def test_a_capture_says_of_its_image_no_more_than_is_known():
    source = dicom_dataset(
        ImageLaterality="B", BodyPartExamined="of Jane Doe", PatientSex="m", PatientBirthDate="1950",
        StudyTime="10:20:30", PregnancyStatus=None, PatientComments="a tall one",
    )  # fmt: skip
    capture = capture_of(source)
    assert (capture.Laterality, capture.BodyPartExamined, capture.PatientSex) == ("", "", "")
    assert (capture.PatientBirthDate, capture.StudyTime) == ("", "102030")
    assert "BurnedInAnnotation" not in capture and "PatientComments" not in capture
    left, right = (capture_of(dicom_dataset(Laterality=side)).SeriesInstanceUID for side in "LR")
    assert left != right, "a series has one side"


def test_another_devices_time_is_not_changed():
    source = dicom_dataset(AcquisitionDateTime="20260227101112", Manufacturer="A maker")
    for one in (report_of(image(source), sources=[source]), capture_of(source)):
        assert b"20260227101112" not in bytes_of(one)
        assert [item.ManufacturerModelName for item in one.ContributingEquipmentSequence] == ["highdicom"]


def test_what_is_said_to_be_without_identity_says_how():
    assert "PatientIdentityRemoved" not in capture_of(dicom_dataset(PatientIdentityRemoved="YES"))
    capture = capture_of(dicom_dataset(PatientIdentityRemoved="YES", DeidentificationMethod="by hand"))
    assert (capture.PatientIdentityRemoved, capture.DeidentificationMethod) == ("YES", "by hand")


def test_a_fault_of_an_image_names_nobody(monkeypatch):
    def refuse(*_, **__):
        raise BytesLengthException("Doe^Jane")  # no ValueError

    monkeypatch.setattr(dicom_results, "_reference_of", refuse)
    for attempt in (lambda: report_of(image()), lambda: capture_of(SOURCE)):
        with pytest.raises(NotExportable, match="without --dicom") as raised:
            attempt()
        assert "Doe" not in str(raised.value)


def test_without_the_extra_it_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    monkeypatch.delitem(sys.modules, dicom_results.__name__)
    with pytest.raises(NotExportable, match="needs the package highdicom"):
        importlib.import_module(dicom_results.__name__)


def test_the_librarys_own_lines_stay_out_of_the_log(caplog):
    with caplog.at_level(logging.INFO):
        report_of(image())
        capture_of(SOURCE)
    assert caplog.text == ""
