"""A study's results as DICOM objects: a structured report (TID 1500), and a secondary capture of each highlight.

An object's UID follows from all that is in it: the same results are the same object, and others another.
Sources: DICOM PS3.3, A.35.3 (Comprehensive SR) and A.8.1 (Secondary Capture); PS3.16, TID 1500, 1410, 1501.
"""

import hashlib
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

import numpy as np
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as SrCode
from pydicom.uid import ExplicitVRLittleEndian

from fracture_ml.core.errors import FractureError, NotExportable
from fracture_ml.imaging.anatomy import body_part_words
from fracture_ml.imaging.dicom_attributes import text_of
from fracture_ml.scoring import results
from fracture_ml.scoring.results import ImageResult

try:
    import highdicom
    from highdicom import sr
except ImportError as missing:
    raise NotExportable(
        "DICOM objects are made by the extra `dicom`, which is not installed here: it needs the package highdicom."
    ) from missing

logging.getLogger("highdicom").setLevel(logging.ERROR)  # its lines name images, and sometimes patients

_MANUFACTURER = results.ALGORITHM
_SR_SERIES, _CAPTURE_SERIES = 9001, 9002  # numbers of series, far above a modality's own
_UTF_8 = "ISO_IR 192"
# Whose image it is, with the values that the standard has for it, colons of old times left out; any other value is
# written as an empty one, and so is what is missing (PS3.3, C.7.1.1 and C.7.2.1; PS3.5, 6.2).
_DAY, _HOUR = r"(1[89]|2\d)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])", r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?"
_WHOSE = {
    "PatientName": r"[^\\]{0,324}",
    "PatientID": r"[^\\]{0,64}",
    "PatientBirthDate": _DAY,
    "PatientSex": "[MFO]",
    "StudyDate": _DAY,
    "StudyTime": _HOUR,
    "StudyID": r"[^\\]{0,16}",
    "AccessionNumber": r"[^\\]{0,16}",
    "ReferringPhysicianName": r"[^\\]{0,324}",
}
_WHOSE_IF_SAID = {"IssuerOfPatientID": r"[^\\]{1,64}", "StudyDescription": r"[^\\]{1,64}"}


def structured_report(
    images: Sequence[ImageResult],
    sources: Sequence[Dataset],
    *,
    uid_of: Callable[[str], str],
    moment: datetime,
) -> bytes:
    """One Comprehensive SR about images of one DICOM study: complete, and verified by nobody.

    Args:   images: each with its names. sources: their own attributes, in the same order. uid_of: a UID for any text,
            the same for the same one. moment: that it is dated by.
    Raises: NotExportable: images of several patients, one that comes twice, or an attribute that cannot be written.
    """
    if len({_patient_of(source) for source in sources}) > 1:
        raise NotExportable(
            "Images of one DICOM study name several patients: find out whose it is; without --dicom it can be exported."
        )
    if len({image.referenced.sop_instance_uid for image in images}) < len(images):
        raise NotExportable(
            "Two files say that they are the same DICOM image, and are not: find out which is right; without --dicom "
            "the study can be exported."
        )
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
            evidence=[_reference_of(source) for source in sources],
            content=report,
            series_instance_uid=uid_of(f"reports {_versions_of(images)} {images[0].referenced.study_instance_uid}"),
            series_number=_SR_SERIES,
            sop_instance_uid=uid_of("not yet named"),
            instance_number=1,
            manufacturer=_MANUFACTURER,
            is_complete=True,
            series_description="Fracture AI: results, research use only",
            specific_character_set=_UTF_8,
        )
        return _written(document, sources[0], moment, uid_of)


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
    said = text_of(source, "ImageLaterality") or text_of(source, "Laterality") or ""
    laterality = said if said in ("L", "R") else ""
    body_part = body_part_words(text_of(source, "BodyPartExamined")) or ""
    with _faults_as_ours():
        reference = _reference_of(source)
        capture = highdicom.sc.SCImage.from_ref_dataset(
            ref_dataset=reference,
            pixel_array=picture,
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            patient_orientation=("L", "F"),  # the library asks for one; a line below says the source's
            series_instance_uid=uid_of(
                f"highlights {_versions_of([image])} {image.referenced.study_instance_uid} {laterality} {body_part}"
            ),
            series_number=_CAPTURE_SERIES,
            sop_instance_uid=uid_of("not yet named"),
            instance_number=image.number,
            manufacturer=_MANUFACTURER,
            transfer_syntax_uid=ExplicitVRLittleEndian,
            specific_character_set=_UTF_8,
        )
        capture.copy_patient_and_study_information(reference)
        capture.PatientOrientation = source.get("PatientOrientation") or ""
        capture.Laterality, capture.BodyPartExamined = laterality, body_part
        capture.ImageType = ["DERIVED", "SECONDARY"]
        capture.SeriesDescription = "Fracture AI: attention, research use only"
        capture.DerivationDescription = results.ATTENTION.meaning
        capture.ImageComments = f"{results.ATTENTION.meaning}. {results.RESEARCH_USE.meaning}."
        if text_of(source, "BurnedInAnnotation") == "NO":  # the caption names nobody
            capture.BurnedInAnnotation = "NO"
        from_image = Dataset()
        from_image.ReferencedSOPClassUID = source.SOPClassUID
        from_image.ReferencedSOPInstanceUID = source.SOPInstanceUID
        from_image.SpatialLocationsPreserved = "NO"
        capture.SourceImageSequence = [from_image]
        return _written(capture, source, moment, uid_of)


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
            uid=uid_of(f"tracked {named.sop_instance_uid}"), identifier=image.tracking_identifier
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


def _patient_of(source: Dataset) -> tuple[str | None, str | None]:
    """The patient, as the image names them: the issuer and the ID."""
    return text_of(source, "IssuerOfPatientID"), text_of(source, "PatientID")


def _reference_of(source: Dataset) -> Dataset:
    """What an object about an image says of it: which it is, and whose. Nothing else of the image gets into it."""
    reference = Dataset()
    for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        setattr(reference, keyword, text_of(source, keyword))
    reference.Modality = text_of(source, "Modality") or ""
    for keyword, pattern in (_WHOSE | _WHOSE_IF_SAID).items():
        said = text_of(source, keyword) or ""
        if keyword == "StudyTime":
            said = said.replace(":", "")
        known = said if re.fullmatch(pattern, said) else ""
        if known or keyword in _WHOSE:
            setattr(reference, keyword, known)
    return reference


def _code(code: results.Code) -> SrCode:
    return SrCode(*code)


def _versions_of(images: Sequence[ImageResult]) -> str:
    return ",".join(sorted({str(image.model.version) for image in images if image.model}))


def _written(document: Dataset, source: Dataset, moment: datetime, uid_of: Callable[[str], str]) -> bytes:
    """The file: dated by `moment` wherever the library put the clock's time, and named by what is in it."""
    day, hour = f"{moment:%Y%m%d}", f"{moment:%H%M%S}"
    document.ContentDate = document.InstanceCreationDate = day
    document.ContentTime = document.InstanceCreationTime = hour
    if "DateOfSecondaryCapture" in document:
        document.DateOfSecondaryCapture, document.TimeOfSecondaryCapture = day, hour
    for equipment in document.ContributingEquipmentSequence:
        equipment.ContributionDateTime = day + hour
    methods = [one for one in ("DeidentificationMethod", "DeidentificationMethodCodeSequence") if source.get(one)]
    if text_of(source, "PatientIdentityRemoved") == "YES" and methods:
        for keyword in ("PatientIdentityRemoved", *methods, "LongitudinalTemporalInformationModified"):
            if keyword in source:
                document.add(source[keyword])
    named = uid_of(f"object {hashlib.sha256(_bytes_of(document)).hexdigest()}")
    document.SOPInstanceUID = document.file_meta.MediaStorageSOPInstanceUID = named
    return _bytes_of(document)


def _bytes_of(document: Dataset) -> bytes:
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
    except (FractureError, MemoryError):
        raise
    except Exception as fault:
        raise NotExportable(
            f"An attribute of an image cannot be written as DICOM has it ({type(fault).__name__}): the study can be "
            "exported without --dicom."
        ) from None
