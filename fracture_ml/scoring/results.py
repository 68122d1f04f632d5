"""What a version says of a study, for other systems: JSON shaped like a measurement report of DICOM (PS3.16, TID 1500).

Codes are SNOMED CT's and DICOM's where they have one, and our own (99FRACML) where they have none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, NamedTuple

from fracture_ml.core.records import Box, ModelVersion, OperatingPoint


class Code(NamedTuple):
    """A coded word: value, scheme, meaning."""

    value: str
    scheme: str
    meaning: str


REPORT_TITLE = Code("126000", "DCM", "Imaging Measurement Report")
PROCEDURE = Code("363680008", "SCT", "Radiographic imaging procedure")
FRACTURE = Code("125605004", "SCT", "Fracture of bone")
PROBABILITY = Code("PROBABILITY", "99FRACML", "Calibrated probability of a fracture")
NO_UNITS = Code("1", "UCUM", "no units")
AI_WORD = Code("AI-WORD", "99FRACML", "What the AI says")
AI_WORDS = {
    OperatingPoint.URGENT: Code("URGENT", "99FRACML", "urgent"),
    OperatingPoint.SUSPICIOUS: Code("SUSPICIOUS", "99FRACML", "suspicious"),
    OperatingPoint.BELOW: Code("NOT-FLAGGED", "99FRACML", "no finding flagged, which rules nothing out"),
    None: Code("UNAVAILABLE", "99FRACML", "AI unavailable"),
}
REGION_IS = Code("REGION-IS", "99FRACML", "What the region is")
ATTENTION = Code("AI-ATTENTION", "99FRACML", "AI attention, not a lesion boundary")
USE_IS = Code("USE-IS", "99FRACML", "What it may be used for")
RESEARCH_USE = Code("RESEARCH-USE", "99FRACML", "Research use only, not a medical device")

ALGORITHM = "fracture-ml"


@dataclass(frozen=True, kw_only=True)
class ReferencedImage:
    """Names of one DICOM image: its SOP class, itself, its series and its study."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str


@dataclass(frozen=True, kw_only=True)
class ImageResult:
    """What is said of one image: a calibrated probability, or the reason why there is none."""

    number: int  # from 1, in its study
    names: Mapping[str, Any]  # beside those of a DICOM image: what else it may be called where this is read
    referenced: ReferencedImage | None  # None: the file is no DICOM, or lacks one of its names
    width_px: int
    height_px: int
    model: ModelVersion | None  # that said it
    probability: float | None
    operating_point: OperatingPoint | None
    reason: str | None
    box: Box | None
    scored_at: datetime | None

    @property
    def tracking_identifier(self) -> str:
        return f"image {self.number}"

    @property
    def finding(self) -> Code | None:
        """What was found; nothing, where nothing was flagged: a code alone reads as a finding."""
        flagged = self.operating_point in (OperatingPoint.URGENT, OperatingPoint.SUSPICIOUS)
        return FRACTURE if flagged else None

    @property
    def corners(self) -> list[tuple[float, float]] | None:
        """The box as a closed line, (x, y) in source pixels, cut off at the image's edges; None where none is left."""
        if self.box is None:
            return None
        left, right = (min(max(x, 0.0), float(self.width_px)) for x in (self.box.x, self.box.x + self.box.width))
        top, bottom = (min(max(y, 0.0), float(self.height_px)) for y in (self.box.y, self.box.y + self.box.height))
        if left >= right or top >= bottom:
            return None
        return [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]


def to_json(images: Sequence[ImageResult], **names: str) -> dict[str, Any]:
    """The report as a tree of the template's parts. names: of the study."""
    return {
        "template": {"identifier": "1500", "resource": "DCMR"},
        "title": REPORT_TITLE._asdict(),
        "use": RESEARCH_USE._asdict(),
        **names,
        "procedure_reported": PROCEDURE._asdict(),
        "imaging_measurements": [_measurements_of(image) for image in images],
    }


def parameters_of(model: ModelVersion) -> list[str]:
    """What the words of a version mean, a sentence each."""
    points = model.operating_points
    return [
        f"urgent from {points.t_specificity:.6f}",
        f"suspicious from {points.t_sensitivity:.6f}",
        f"weights sha256 {model.bundle_sha256}",
        f"snapshot {model.snapshot_id}",
        f"code {model.code_version}",
    ]


def _measurements_of(image: ImageResult) -> dict[str, Any]:
    model = image.model
    return {
        "tracking_identifier": image.tracking_identifier,
        "referenced_image": {
            **image.names,
            **(asdict(image.referenced) if image.referenced else {}),
            "width_px": image.width_px,
            "height_px": image.height_px,
        },
        "algorithm": model and {"name": ALGORITHM, "version": str(model.version), "parameters": parameters_of(model)},
        "finding": image.finding and image.finding._asdict(),
        "measurements": []
        if image.probability is None
        else [{"name": PROBABILITY._asdict(), "value": image.probability, "unit": NO_UNITS._asdict()}],
        "evaluations": [{"name": AI_WORD._asdict(), "value": AI_WORDS[image.operating_point]._asdict()}],
        "reason": image.reason,
        "scored_at": image.scored_at and image.scored_at.isoformat(),
        "region": image.corners
        and {
            "graphic_type": "POLYLINE",
            "points": image.corners,
            "is": ATTENTION._asdict(),
        },
    }
