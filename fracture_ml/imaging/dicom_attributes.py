"""DICOM's attributes: those that are read, as text and numbers, and which objects are admitted.

Source: DICOM PS3.3; PS3.4, B.5 (kinds of objects); PS3.5, A (transfer syntaxes).
"""

import io
import logging
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pydicom
from pydicom import Dataset, uid
from pydicom.datadict import tag_for_keyword
from pydicom.filereader import read_dataset

from fracture_ml.core.errors import (
    BurnedInIdentity,
    Corrupt,
    FractureError,
    NotARadiograph,
    Truncated,
    UnsupportedDicom,
)

# pydicom's warnings quote the values that they complain about, and those may name a person: none is given.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
logging.getLogger("pydicom.pixels.decoders.base").setLevel(logging.CRITICAL)  # what it reports is raised, as ours

# Each admitted transfer syntax with the one decoder that reads it; None: not compressed. Pillow's libjpeg-turbo and
# OpenJPEG for what they can read, GDCM for the rest.
TRANSFER_SYNTAXES: dict[str, str | None] = {
    uid.ImplicitVRLittleEndian: None,
    uid.ExplicitVRLittleEndian: None,
    uid.RLELossless: "pydicom",
    uid.JPEGBaseline8Bit: "pillow",
    uid.JPEGLossless: "gdcm",
    uid.JPEGLosslessSV1: "gdcm",
    uid.JPEGLSLossless: "gdcm",
    uid.JPEGLSNearLossless: "gdcm",
    uid.JPEG2000Lossless: "pillow",
    uid.JPEG2000: "pillow",
}
_ADMITTED_CLASSES = (uid.ComputedRadiographyImageStorage, uid.DigitalXRayImageStorageForPresentation)

# The attributes that are read. The rest of a file (names, free text, private tags) is never even looked at.
READ_KEYWORDS = [
    "SpecificCharacterSet",
    "ImageType",
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyDate",
    "SeriesDate",
    "AcquisitionDate",
    "ContentDate",
    "AcquisitionDateTime",
    "StudyTime",
    "SeriesTime",
    "AcquisitionTime",
    "ContentTime",
    "Modality",
    "PresentationIntentType",
    "Manufacturer",
    "ManufacturerModelName",
    "StationName",
    "AnatomicRegionSequence",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "PatientIdentityRemoved",
    "BodyPartExamined",
    "ViewPosition",
    "ImagerPixelSpacing",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "InstanceNumber",
    "Laterality",
    "ImageLaterality",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "PixelSpacing",
    "PixelAspectRatio",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "BurnedInAnnotation",
    "WindowCenter",
    "WindowWidth",
    "RescaleIntercept",
    "RescaleSlope",
    "RescaleType",
    "VOILUTFunction",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
    "ModalityLUTSequence",
    "VOILUTSequence",
    "RequestedProcedurePriority",
    "PresentationLUTShape",
    "PixelData",
]
_READ_TAGS = [tag_for_keyword(keyword) for keyword in READ_KEYWORDS]

_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # Postgres stores no NUL, and no word needs the others
_META_START = 132  # after the preamble and "DICM"


def read_dicom(data: bytes) -> Dataset:
    """The attributes of `READ_KEYWORDS`, all converted, so that none fails later.

    Raises: UnsupportedDicom: a transfer syntax that is not admitted, before the data set is touched. Truncated.
            Corrupt.
    """
    with pydicom_at_the_border():
        meta = read_dataset(
            io.BytesIO(data[_META_START:]),
            is_implicit_VR=False,
            is_little_endian=True,
            stop_when=lambda tag, vr, length: tag.group != 2,
            at_top_level=False,
        )
        transfer_syntax = str(meta.get("TransferSyntaxUID", ""))
    if transfer_syntax not in TRANSFER_SYNTAXES:
        raise UnsupportedDicom(f"The transfer syntax ({_name_of(transfer_syntax)}) is not one that is admitted.")
    with pydicom_at_the_border():
        dataset = pydicom.dcmread(io.BytesIO(data), specific_tags=_READ_TAGS)
        for _ in dataset.iterall():  # converts each element, those of sequences too
            pass
    if len(dataset) == 0:  # what pydicom leaves where the file ends within an element
        raise Truncated("The DICOM ends before its pixels do.")
    return dataset


def admit(dataset: Dataset, *, secondary_capture: bool, for_processing: bool) -> None:
    """Raises: UnsupportedDicom: a SOP class that is not admitted. NotARadiograph: raw. BurnedInIdentity."""
    admitted = list(_ADMITTED_CLASSES)
    if secondary_capture:
        admitted.append(uid.SecondaryCaptureImageStorage)
    if for_processing:
        admitted.append(uid.DigitalXRayImageStorageForProcessing)
    sop_class = text_of(dataset, "SOPClassUID") or ""
    if sop_class not in admitted:
        raise UnsupportedDicom(f"The kind of object ({_name_of(sop_class)}) is not one that is admitted.")
    if text_of(dataset, "PresentationIntentType") == "FOR PROCESSING" and not for_processing:
        raise NotARadiograph("The pixels are raw (FOR PROCESSING), not for display.")
    require_no_burned_in_identity(dataset)


def require_no_burned_in_identity(dataset: Dataset) -> None:
    """Raises: BurnedInIdentity."""
    if (text_of(dataset, "BurnedInAnnotation") or "").upper().startswith("Y"):
        raise BurnedInIdentity("BurnedInAnnotation is YES: the pixels may name a person; send the image without it.")


def text_of(dataset: Dataset, keyword: str) -> str | None:
    """The first value as text, without control characters and white space around it; None where nothing is left."""
    value = _first(dataset.get(keyword))
    text = "" if value is None else _CONTROL_CHARACTERS.sub("", str(value)).strip()
    return text or None


def number_of(dataset: Dataset, keyword: str) -> float | None:
    """The first value as a number; None where it is absent or empty. Raises: Corrupt: not a finite number."""
    value = _first(dataset.get(keyword))
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise Corrupt(f"The attribute {keyword} is not a number.") from None
    if not math.isfinite(number):
        raise Corrupt(f"The attribute {keyword} is not a finite number.")
    return number


def whole_number(dataset: Dataset, keyword: str, default: int | None = None) -> int:
    """The first value as a whole number, 0 or more; `default` where it is absent. Raises: Corrupt."""
    number = number_of(dataset, keyword)
    if number is None:
        if default is None:
            raise Corrupt(f"The DICOM lacks the attribute {keyword}.")
        return default
    if number != int(number) or number < 0:
        raise Corrupt(f"The attribute {keyword} is not a whole number.")
    return int(number)


def _first(value: Any) -> Any:
    if isinstance(value, (list, tuple, pydicom.multival.MultiValue)):
        return value[0] if len(value) else None
    return value


def _name_of(identifier: str) -> str:
    """The standard's name of a UID. Anything that it does not know is not repeated: it may be anybody's text."""
    return uid.UID(identifier).name if identifier in uid.UID_dictionary else "unknown"


@contextmanager
def pydicom_at_the_border() -> Iterator[None]:
    """What pydicom and its decoders raise over damaged bytes (any type) becomes ours, without the values it quotes."""
    try:
        yield
    except (FractureError, MemoryError):
        raise
    except Exception as fault:  # damaged bytes make pydicom raise almost any type
        if isinstance(fault, EOFError) or "truncated" in str(fault):
            raise Truncated("The DICOM ends before its pixels do.") from None
        raise Corrupt("The DICOM cannot be read: its structure is damaged.") from None
