"""What is known of a radiograph from its own bytes, identity already hashed. The object is decoded once."""

import hashlib

from pydicom import Dataset

from fracture_ml.core.records import BodyPart, Priority, RadiographFacts
from fracture_ml.imaging.anatomy import body_part_of, laterality_of, view_of
from fracture_ml.imaging.decode import DEFAULT_LIMITS, DecodeLimits, read_picture
from fracture_ml.imaging.deidentify import age_of, hashed_patient, keyed_hash
from fracture_ml.imaging.dicom_attributes import text_of
from fracture_ml.imaging.dicom_pixels import DicomHeader
from fracture_ml.imaging.fingerprint import perceptual_hash

# Only the perceptual hash needs the pixels, and it needs 64 a side: a large JPEG is decoded at a part of its size. Not
# below 256: at half the size, one of 75 pairs of near-duplicates is not found any more (docs/LOG.md, 2026-11-25).
_ENOUGH_FOR_A_HASH_PX = 256

_PRIORITIES = {"STAT": Priority.STAT, "HIGH": Priority.URGENT, "URGENT": Priority.URGENT, "ASAP": Priority.URGENT}


def read_facts(data: bytes, *, site_secret: bytes, limits: DecodeLimits = DEFAULT_LIMITS) -> RadiographFacts:
    """Check that the object is a whole radiograph, and read what it says.

    Raises: an UnusableObject, as `decode` does.
    """
    picture = read_picture(data, limits, at_least_px=_ENOUGH_FOR_A_HASH_PX)
    if picture.dataset is not None:
        DicomHeader.of(picture.dataset).require_whole_lossless_scan()
    said = {} if picture.dataset is None else _said_by(picture.dataset, site_secret)
    return RadiographFacts(
        sha256=hashlib.sha256(data).hexdigest(),
        media_type=picture.media_type,
        size_bytes=len(data),
        width_px=picture.width_px,
        height_px=picture.height_px,
        bits_stored=picture.bits_stored,
        photometric=picture.photometric,
        perceptual_hash=perceptual_hash(picture.pixels),
        **said,
    )


def age_band(age: int | None) -> str | None:
    """Ten years wide; one band for all from 90."""
    if age is None:
        return None
    return "90+" if age >= 90 else f"{age // 10 * 10}-{age // 10 * 10 + 9}"


def _said_by(dataset: Dataset, site_secret: bytes) -> dict[str, object]:
    """A DICOM's attributes as fields of RadiographFacts."""
    study, instance = text_of(dataset, "StudyInstanceUID"), text_of(dataset, "SOPInstanceUID")
    sex = text_of(dataset, "PatientSex")
    return {
        "patient_key": hashed_patient(dataset, site_secret),
        "study_key": keyed_hash(site_secret, study) if study else None,
        "sop_instance_key": keyed_hash(site_secret, instance) if instance else None,
        "body_part": _body_part_in(dataset),
        "laterality": laterality_of(text_of(dataset, "ImageLaterality"))
        or laterality_of(text_of(dataset, "Laterality")),
        "view": view_of(text_of(dataset, "ViewPosition")),
        "sex": sex if sex in ("M", "F", "O") else None,
        "age_band": age_band(age_of(dataset)),
        "manufacturer": text_of(dataset, "Manufacturer"),
        "ordered_priority": _PRIORITIES.get(
            (text_of(dataset, "RequestedProcedurePriority") or "").upper(), Priority.ROUTINE
        ),
    }


def _body_part_in(dataset: Dataset) -> BodyPart:
    """BodyPartExamined; DX may code the region instead."""
    part = body_part_of(text_of(dataset, "BodyPartExamined"))
    regions = dataset.get("AnatomicRegionSequence")
    if part is BodyPart.UNKNOWN and regions:
        return body_part_of(text_of(regions[0], "CodeMeaning"))
    return part
