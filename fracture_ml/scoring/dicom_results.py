"""A study's results as DICOM objects: a structured report (TID 1500), and a secondary capture of each highlight.

Sources: DICOM PS3.3, A.35.3 (Comprehensive SR) and A.8.1 (Secondary Capture); PS3.16, TID 1500, 1410, 1501.
"""

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

import numpy as np
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as SrCode

from fracture_ml.core.errors import NotExportable
from fracture_ml.scoring import results
from fracture_ml.scoring.results import ImageResult

try:
    import highdicom
    from highdicom import sr
except ImportError as missing:
    raise NotExportable(
        "DICOM objects are made by the extra `dicom`, which is not installed here: it needs the package highdicom."
    ) from missing

_MANUFACTURER = results.ALGORITHM
_SR_SERIES, _CAPTURE_SERIES = 9001, 9002  # numbers of series, far above a modality's own
# What an image should say, if only by an empty value (PS3.3, C.7.1.1 and C.7.2.1, type 2), and old ones do not.
_MAY_BE_EMPTY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)
_HOW_DEIDENTIFIED = ("PatientIdentityRemoved", "DeidentificationMethod", "LongitudinalTemporalInformationModified")


def structured_report(
    images: Sequence[ImageResult],
    evidence: Sequence[Dataset],
    *,
    uid_of: Callable[[str], str],
    moment: datetime,
) -> bytes:
    """One Comprehensive SR about images of one DICOM study: complete, and verified by nobody.

    Args:   images: each with its names. evidence: their own attributes, in the same order; who the patient is, is
            copied from the first. uid_of: a UID for any text, the same for the same one. moment: that it is dated by.
    Raises: NotExportable: an attribute of an image is not as the standard has it.
    """
    same_words = " ".join(_said_of(image) for image in images)  # what is said again is the same object
    with _faults_as_ours():
        report = sr.MeasurementReport(
            observation_context=sr.ObservationContext(
                observer_device_context=sr.ObserverContext(
                    observer_type=codes.DCM.Device,
                    observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
                        uid=uid_of("this installation"), name=results.ALGORITHM, manufacturer_name=_MANUFACTURER
                    ),
                )
            ),
            procedure_reported=_code(results.PROCEDURE),
            imaging_measurements=[_measurements_of(image, uid_of) for image in images],
            title=_code(results.REPORT_TITLE),
        )
        document = sr.ComprehensiveSR(
            evidence=[_completed(one) for one in evidence],
            content=report,
            series_instance_uid=uid_of(f"reports {same_words}"),
            series_number=_SR_SERIES,
            sop_instance_uid=uid_of(f"report {same_words}"),
            instance_number=1,
            manufacturer=_MANUFACTURER,
            is_complete=True,
            series_description="Fracture AI: results, research use only",
        )
        return _written(document, evidence[0], moment)


def highlight_capture(
    image: ImageResult,
    source: Dataset,
    picture: np.ndarray,
    *,
    uid_of: Callable[[str], str],
    moment: datetime,
) -> bytes:
    """The highlighted image as a secondary capture of the source's study.

    Args:   source: the image's own attributes. picture: uint8, (h, w, 3), RGB, its caption in it.
            uid_of, moment: as of `structured_report`.
    Raises: NotExportable.
    """
    with _faults_as_ours():
        capture = highdicom.sc.SCImage.from_ref_dataset(
            ref_dataset=_completed(source),
            pixel_array=picture,
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            patient_orientation=("L", "F"),  # the library asks for one; the next line says the source's
            series_instance_uid=uid_of(f"highlights {_version_of(image)} {image.referenced.study_instance_uid}"),
            series_number=_CAPTURE_SERIES,
            sop_instance_uid=uid_of(f"highlight {_said_of(image)}"),
            instance_number=image.number,
            manufacturer=_MANUFACTURER,
            transfer_syntax_uid="1.2.840.10008.1.2.1",
        )
        capture.PatientOrientation = source.get("PatientOrientation") or ""
        capture.Laterality = source.get("ImageLaterality") or source.get("Laterality") or ""
        capture.BodyPartExamined = source.get("BodyPartExamined") or ""
        capture.ImageType = ["DERIVED", "SECONDARY"]
        capture.SeriesDescription = "Fracture AI: attention, research use only"
        capture.DerivationDescription = results.ATTENTION.meaning
        capture.ImageComments = f"{results.ATTENTION.meaning}. {results.RESEARCH_USE.meaning}."
        capture.BurnedInAnnotation = "NO"  # the caption names nobody
        reference = Dataset()
        reference.ReferencedSOPClassUID = source.SOPClassUID
        reference.ReferencedSOPInstanceUID = source.SOPInstanceUID
        reference.SpatialLocationsPreserved = "NO"
        capture.SourceImageSequence = [reference]
        return _written(capture, source, moment)


def _measurements_of(
    image: ImageResult, uid_of: Callable[[str], str]
) -> sr.PlanarROIMeasurementsAndQualitativeEvaluations | sr.MeasurementsAndQualitativeEvaluations:
    named = image.referenced
    evaluations = [(results.AI_WORD, results.AI_WORDS[image.operating_point])]
    if image.corners is not None:
        evaluations.append((results.REGION_IS, results.ATTENTION))
    evaluations.append((results.USE_IS, results.RESEARCH_USE))
    said = {
        "tracking_identifier": sr.TrackingIdentifier(
            uid=uid_of(f"tracked {named.sop_instance_uid}"),
            identifier=image.tracking_identifier,
        ),
        "algorithm_id": None
        if image.model is None
        else sr.AlgorithmIdentification(
            name=results.ALGORITHM,
            version=str(image.model.version),
            parameters=results.parameters_of(image.model),
            manufacturer=_MANUFACTURER,
        ),
        "finding_type": _code(image.finding) if image.finding else None,
        "measurements": None
        if image.probability is None
        else [sr.Measurement(_code(results.PROBABILITY), image.probability, _code(results.NO_UNITS))],
        "qualitative_evaluations": [sr.QualitativeEvaluation(_code(name), _code(value)) for name, value in evaluations],
    }
    if image.corners is None:
        source = sr.SourceImageForMeasurementGroup(named.sop_class_uid, named.sop_instance_uid)
        return sr.MeasurementsAndQualitativeEvaluations(source_images=[source], **said)
    region = sr.ImageRegion(
        graphic_type=sr.GraphicTypeValues.POLYLINE,
        graphic_data=np.array(image.corners),
        source_image=sr.SourceImageForRegion(named.sop_class_uid, named.sop_instance_uid),
    )
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(referenced_region=region, **said)


def _completed(source: Dataset) -> Dataset:
    completed = Dataset()
    for keyword in _MAY_BE_EMPTY:
        setattr(completed, keyword, "")
    completed.update(source)
    return completed


def _code(code: results.Code) -> SrCode:
    return SrCode(*code)


def _version_of(image: ImageResult) -> str:
    return "none" if image.model is None else str(image.model.version)


def _said_of(image: ImageResult) -> str:
    return f"{image.referenced.sop_instance_uid} {_version_of(image)} {image.probability} {image.reason}"


def _written(document: Dataset, source: Dataset, moment: datetime) -> bytes:
    """The file, dated by `moment` wherever the library put the clock's time."""
    day, hour = f"{moment:%Y%m%d}", f"{moment:%H%M%S}"
    document.ContentDate = document.InstanceCreationDate = day
    document.ContentTime = document.InstanceCreationTime = hour
    if "DateOfSecondaryCapture" in document:
        document.DateOfSecondaryCapture, document.TimeOfSecondaryCapture = day, hour
    for equipment in document.ContributingEquipmentSequence:
        equipment.ContributionDateTime = day + hour
    for keyword in _HOW_DEIDENTIFIED:
        if keyword in source:
            document.add(source[keyword])
    buffer = io.BytesIO()
    document.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@contextmanager
def _faults_as_ours() -> Iterator[None]:
    """The libraries' messages quote the values that they complain about, and those may name a person."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (ValueError, TypeError, AttributeError, KeyError) as fault:
        raise NotExportable(
            f"An attribute of the image is not as DICOM has it ({type(fault).__name__}): the study can be exported "
            "without --dicom."
        ) from None
