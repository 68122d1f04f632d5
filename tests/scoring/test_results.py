"""Results for other systems: what the JSON says, and DICOM objects as another system reads them."""

import io
import json
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pydicom
import pytest
from highdicom.sr import srread

from fracture_ml.core.errors import NotExportable
from fracture_ml.core.records import Box, ModelVersion, OperatingPoint, OperatingPoints
from fracture_ml.imaging.deidentify import hashed_uid
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
        "sha256": "e" * 64,
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
    }
    return ImageResult(**told | changes)


BELOW = {"probability": 0.0625, "operating_point": OperatingPoint.BELOW, "box": None}
UNSCORED = {"probability": None, "operating_point": None, "box": None, "reason": "truncated: It ends early."}


def report_of(*images: ImageResult, evidence=None, **options):
    data = structured_report(
        images, evidence or [SOURCE] * len(images), **{"uid_of": uid_of, "moment": MOMENT} | options
    )
    return srread(io.BytesIO(data))


def said_in(group) -> dict[str, str]:
    return {one.name.meaning: one.value.meaning for one in group.get_qualitative_evaluations()}


def test_only_what_is_flagged_is_a_finding_in_the_json():
    document = to_json("a study", [image(), image(number=2, **BELOW), image(number=3, **UNSCORED)])
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
    json.dumps(document)


def test_an_image_without_names_is_in_the_json_by_its_hash():
    (one,) = to_json("a study", [image(referenced=None)])["imaging_measurements"]
    assert one["referenced_image"] == {"sha256": "e" * 64}


def test_a_box_that_reaches_over_the_edge_ends_there():
    assert image(box=Box(x=-3.0, y=90.0, width=200.0, height=20.0)).corners[:3] == [(0, 90), (80, 90), (80, 96)]


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


def test_a_name_in_other_letters_stays_that_name():
    source = dicom_dataset(SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jürgen")
    read = pydicom.dcmread(io.BytesIO(bytes_of(source)), stop_before_pixels=True)
    assert report_of(image(read), evidence=[read]).PatientName == "Müller^Jürgen"


def test_the_same_results_are_the_same_object_and_others_another():
    first = report_of(image())
    assert report_of(image()).SOPInstanceUID == first.SOPInstanceUID
    others = [
        image(probability=0.5),
        image(model=replace(MODEL, version=8)),
        image(**UNSCORED),
    ]
    assert len({first.SOPInstanceUID, *(report_of(one).SOPInstanceUID for one in others)}) == 4


def test_a_highlight_is_a_capture_of_the_sources_study():
    picture = np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    source = dicom_dataset(PatientName="Doe^Jane", PatientID="77", ImageLaterality="L", PatientOrientation=["L", "F"])
    capture = pydicom.dcmread(io.BytesIO(highlight_capture(image(), source, picture, uid_of=uid_of, moment=MOMENT)))
    np.testing.assert_array_equal(capture.pixel_array, picture)
    assert (capture.PatientName, capture.StudyInstanceUID) == ("Doe^Jane", source.StudyInstanceUID)
    assert capture.SeriesInstanceUID != source.SeriesInstanceUID
    assert capture.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert (capture.Laterality, list(capture.PatientOrientation), capture.Modality) == ("L", ["L", "F"], "OT")
    assert "not a lesion boundary" in capture.DerivationDescription and "Research use" in capture.ImageComments


def test_a_fault_of_an_image_names_nobody():
    nameless = dicom_dataset(PatientName="Doe^Jane", StudyInstanceUID=None)
    with pytest.raises(NotExportable, match="without --dicom") as raised:
        report_of(image(), evidence=[nameless])
    assert "Doe" not in str(raised.value)
