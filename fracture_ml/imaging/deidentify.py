"""Identity leaves before anything is stored: the practical subset of DICOM PS3.15, Annex E; metadata of JPEG and PNG.

A DICOM is rebuilt from a list of attributes that may stay. What is not on the list (names, free text, private tags,
overlays, dates of birth) is not copied, so that an attribute which nobody thought of cannot slip through.
"""

import hashlib
import hmac
import io
import json
from datetime import date, timedelta
from decimal import Decimal
from uuid import UUID

from pydicom import DataElement, Dataset
from pydicom.dataset import FileDataset, FileMetaDataset

from fracture_ml.core.errors import InvalidSettings
from fracture_ml.core.records import MediaType
from fracture_ml.imaging.anatomy import body_part_words, laterality_of, view_word
from fracture_ml.imaging.dicom_attributes import (
    pydicom_at_the_border,
    read_dicom,
    require_no_burned_in_identity,
    text_of,
)
from fracture_ml.imaging.dicom_pixels import COLOUR_INTERPRETATIONS, DicomHeader
from fracture_ml.imaging.jpeg import read_jpeg_structure
from fracture_ml.imaging.png import read_png_structure

_METHOD = "fracture-ml: allow-list, keyed hashes, shifted dates (subset of PS3.15 E)"
_IMPLEMENTATION_CLASS_UID = "2.25.251903674011284037713862904460165738114"
_OLDEST_BAND = 90
_MAX_SHIFT_DAYS = 3650
_SAYS_NOBODY = {"ANON", "ANONYMOUS", "ANONYMIZED", "ANONYMISED", "UNKNOWN", "NONE", "NA", "N/A", "0"}

# Copied as they are: numbers and pixels.
_KEPT_PIXEL_KEYWORDS = [
    "SamplesPerPixel",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "ImagerPixelSpacing",
    "PixelSpacing",
    "PixelAspectRatio",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "WindowCenter",
    "WindowWidth",
    "RescaleIntercept",
    "RescaleSlope",
    "LossyImageCompressionRatio",
]
_NUMBERS = ("US", "SS", "UL", "SL", "DS", "IS", "FL", "FD")
_KEPT_LUT_KEYWORDS = ("LUTDescriptor", "LUTData")
# Copied where every value is one of these words that the standard defines: anything else, somebody typed there.
_UNITS = ("OD", "HU", "US", "MGML", "Z_EFF", "ED", "EDW", "HU_MOD", "PCT")  # of a Modality LUT's output, PS3.3 C.11.1
_KEPT_WORDS = {
    "PhotometricInterpretation": ("MONOCHROME1", "MONOCHROME2", *COLOUR_INTERPRETATIONS),
    "RescaleType": _UNITS,
    "ModalityLUTType": _UNITS,
    "VOILUTFunction": ("LINEAR", "LINEAR_EXACT", "SIGMOID"),
    "PresentationLUTShape": ("IDENTITY", "INVERSE"),
    "LossyImageCompression": ("00", "01"),
    "LossyImageCompressionMethod": ("ISO_10918_1", "ISO_14495_1", "ISO_15444_1"),
    "Modality": ("CR", "DX", "DR", "RG", "OT"),
    "PresentationIntentType": ("FOR PRESENTATION", "FOR PROCESSING"),
    "PatientSex": ("M", "F", "O"),
    "BurnedInAnnotation": ("NO",),
    "RequestedProcedurePriority": ("STAT", "HIGH", "ROUTINE", "MEDIUM", "LOW"),
}
_DEVICE_KEYWORDS = ("Manufacturer", "ManufacturerModelName")
_DATE_KEYWORDS = ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")
# Present though empty, because the standard asks for them.
_EMPTIED_KEYWORDS = ("PatientName", "PatientBirthDate", "AccessionNumber", "ReferringPhysicianName", "StudyID")
_UID_KEYWORDS = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")


def keyed_hash(site_secret: bytes, *parts: str) -> str:
    """HMAC-SHA256 of the parts under the site's secret: 32 hex characters that nobody else can compute.

    Raises: InvalidSettings: no secret, which would make the hash one that anybody can compute.
    """
    if not site_secret:
        raise InvalidSettings("The site secret is empty: set FRACTURE_SITE_SECRET.")
    return hmac.new(site_secret, json.dumps(parts).encode(), hashlib.sha256).hexdigest()[:32]


def hashed_patient(dataset: Dataset, site_secret: bytes) -> str | None:
    """The patient's keyed hash (issuer and id), the same for all of a patient's images. None where no id is given."""
    patient = text_of(dataset, "PatientID")
    if patient is None or patient.upper() in _SAYS_NOBODY:
        return None
    return keyed_hash(site_secret, text_of(dataset, "IssuerOfPatientID") or "", patient)


def hashed_uid(site_secret: bytes, identifier: str) -> str:
    """A valid UID of the form 2.25.<UUID as a number>, the same for the same `identifier`. Source: PS3.5, B.2."""
    return f"2.25.{UUID(hex=keyed_hash(site_secret, 'uid', identifier), version=5).int}"


def age_of(dataset: Dataset) -> int | None:
    """Whole years at the examination, from PatientAge, else from the date of birth."""
    text = text_of(dataset, "PatientAge") or ""
    if len(text) == 4 and text[:3].isascii() and text[:3].isdigit() and text[3] in "DWMY":
        number = int(text[:3])
        return number // {"D": 365, "W": 52, "M": 12, "Y": 1}[text[3]]
    born = _date_of(text_of(dataset, "PatientBirthDate"))
    seen = next(filter(None, (_date_of(text_of(dataset, keyword)) for keyword in _DATE_KEYWORDS)), None)
    if born is None or seen is None or seen < born:
        return None
    return seen.year - born.year - ((seen.month, seen.day) < (born.month, born.day))


def deidentify(data: bytes, media_type: MediaType, *, site_secret: bytes) -> bytes:
    """The same image without what could name a person. The pixels stay bit-identical, and so does the way they are
    shown (window, lookup tables, a JPEG's orientation).

    Raises: Truncated, Corrupt, UnsupportedDicom, BurnedInIdentity.
    """
    if media_type is MediaType.JPEG:
        return read_jpeg_structure(data).image_only
    if media_type is MediaType.PNG:
        return read_png_structure(data).image_only
    return _deidentified_dicom(data, site_secret)


def _deidentified_dicom(data: bytes, site_secret: bytes) -> bytes:
    source = read_dicom(data)
    require_no_burned_in_identity(source)
    with pydicom_at_the_border():
        target = Dataset()
        target.SpecificCharacterSet = "ISO_IR 192"
        for keyword in _EMPTIED_KEYWORDS:
            setattr(target, keyword, "")
        _copy_coded(source, target)
        _copy_hashed(source, target, site_secret)
        _copy_dates(source, target, site_secret)
        _copy_pixels(source, target)
        target.PatientIdentityRemoved = "YES"
        target.DeidentificationMethod = _METHOD[:64]
        return _written(source, target)


def _copy_coded(source: Dataset, target: Dataset) -> None:
    """Words of closed lists, the device, the body part, and an age that is no rarer than its band."""
    target.SOPClassUID = source.SOPClassUID
    image_type = source.get("ImageType") or []
    words = [image_type] if isinstance(image_type, str) else list(image_type)
    known = [word for word in words[:2] if word in ("ORIGINAL", "DERIVED", "PRIMARY", "SECONDARY")]
    if len(known) == 2:
        target.ImageType = known
    _copy_words(source, target)
    for keyword in _DEVICE_KEYWORDS:
        if text := text_of(source, keyword):
            setattr(target, keyword, text[:64])
    for keyword in ("SeriesNumber", "InstanceNumber"):
        text = text_of(source, keyword) or ""
        setattr(target, keyword, text if text.isascii() and text.isdigit() and len(text) < 10 else None)
    target.BodyPartExamined = body_part_words(text_of(source, "BodyPartExamined")) or ""
    target.ViewPosition = view_word(text_of(source, "ViewPosition")) or ""
    for keyword in ("Laterality", "ImageLaterality"):
        if laterality := laterality_of(text_of(source, keyword)):
            setattr(target, keyword, laterality)
    age = age_of(source)
    if age is not None:
        target.PatientAge = f"{min(age, _OLDEST_BAND):03d}Y"


def _copy_words(source: Dataset, target: Dataset) -> None:
    for keyword, allowed in _KEPT_WORDS.items():
        said = source.get(keyword) or []
        words = [str(word).strip() for word in ([said] if isinstance(said, str) else said)]
        if words and set(words) <= set(allowed):
            setattr(target, keyword, words if len(words) > 1 else words[0])


def _copy_hashed(source: Dataset, target: Dataset, site_secret: bytes) -> None:
    target.PatientID = hashed_patient(source, site_secret) or ""
    for keyword in _UID_KEYWORDS:
        # Without a UID the place is filled by one of the file's own, so that two such files are not one study.
        identifier = text_of(source, keyword) or keyword + hashlib.sha256(source.PixelData).hexdigest()
        setattr(target, keyword, hashed_uid(site_secret, identifier))
    if station := text_of(source, "StationName"):
        target.StationName = keyed_hash(site_secret, "station", station)[:16]


def _copy_dates(source: Dataset, target: Dataset, site_secret: bytes) -> None:
    """Days go back by a number of the patient's own, the same for all of a patient's images; hours stay."""
    whose = hashed_patient(source, site_secret) or text_of(source, "StudyInstanceUID") or ""
    shift = timedelta(days=1 + int(keyed_hash(site_secret, "days", whose), 16) % _MAX_SHIFT_DAYS)
    for keyword in _DATE_KEYWORDS:
        day = _date_of(text_of(source, keyword))
        setattr(target, keyword, _shifted(day, shift))
    stamp = text_of(source, "AcquisitionDateTime") or ""
    if day := _shifted(_date_of(stamp[:8]), shift):
        target.AcquisitionDateTime = day + _digits(stamp[8:14], 6)
    for keyword in ("StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime"):
        setattr(target, keyword, _digits((text_of(source, keyword) or "")[:6], 6))
    target.LongitudinalTemporalInformationModified = "MODIFIED"


def _copy_pixels(source: Dataset, target: Dataset) -> None:
    for keyword in _KEPT_PIXEL_KEYWORDS:
        if keyword in source and _holds_numbers(source[keyword]):
            target.add(source[keyword])
    target.add_new("PixelData", source["PixelData"].VR, DicomHeader.of(source).bare_pixel_data())
    for keyword in ("ModalityLUTSequence", "VOILUTSequence"):
        items = []
        for item in source.get(keyword) or []:
            table = Dataset()
            for inner in _KEPT_LUT_KEYWORDS:
                if inner in item:
                    table.add(item[inner])
            _copy_words(item, table)
            items.append(table)
        if items:
            setattr(target, keyword, items)


def _holds_numbers(element: DataElement) -> bool:
    """A file may write any text as any attribute."""
    values = element.value if element.VM > 1 else [element.value]
    return element.VR in _NUMBERS and all(isinstance(value, int | float | Decimal) for value in values)


def _written(source: Dataset, target: Dataset) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = target.SOPClassUID
    meta.MediaStorageSOPInstanceUID = target.SOPInstanceUID
    meta.TransferSyntaxUID = source.file_meta.TransferSyntaxUID
    meta.ImplementationClassUID = _IMPLEMENTATION_CLASS_UID
    buffer = io.BytesIO()
    FileDataset(buffer, target, preamble=bytes(128), file_meta=meta).save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _date_of(text: str | None) -> date | None:
    if text is None or len(text) < 8 or not (text[:8].isascii() and text[:8].isdigit()):
        return None
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:8]))
    except ValueError:
        return None


def _shifted(day: date | None, shift: timedelta) -> str:
    """The day, moved back, as DICOM writes it; empty where there is none, or none that can be moved."""
    if day is None or day - date.min <= shift:
        return ""
    moved = day - shift
    return f"{moved.year:04d}{moved.month:02d}{moved.day:02d}"


def _digits(text: str, length: int) -> str:
    return text if len(text) == length and text.isascii() and text.isdigit() else ""
