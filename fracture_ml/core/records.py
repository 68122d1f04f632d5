"""What travels between the rooms: frozen records, one word for one thing."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


class MediaType(StrEnum):
    PNG = "image/png"
    JPEG = "image/jpeg"
    DICOM = "application/dicom"

    @property
    def suffix(self) -> str:
        """What the name of such a file ends with, with the dot."""
        return {MediaType.PNG: ".png", MediaType.JPEG: ".jpg", MediaType.DICOM: ".dcm"}[self]


class BodyPart(StrEnum):
    """Our own list; DICOM's BodyPartExamined and data sets' words are mapped to it."""

    HAND = "hand"
    WRIST = "wrist"
    FOREARM = "forearm"
    ELBOW = "elbow"
    HUMERUS = "humerus"
    SHOULDER = "shoulder"
    HIP = "hip"
    PELVIS = "pelvis"
    FEMUR = "femur"
    KNEE = "knee"
    LEG = "leg"
    ANKLE = "ankle"
    FOOT = "foot"
    SPINE = "spine"
    CHEST = "chest"
    MIXED = "mixed"
    UNKNOWN = "unknown"


class LabelValue(StrEnum):
    POSITIVE = "positive"
    NEGATIVE = "negative"
    UNCERTAIN = "uncertain"
    ABSENT = "absent"


class LabelMeaning(StrEnum):
    """What a positive label says, and a negative one denies. "Abnormal" (MURA) is more than a fracture."""

    FRACTURE = "fracture"
    ABNORMAL = "abnormal"


class LabelSource(StrEnum):
    """From the highest rank to the lowest."""

    ADJUDICATION = "adjudication"
    RADIOLOGIST = "radiologist"
    REPORT = "report"
    DATASET = "dataset"


class Split(StrEnum):
    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"
    VAULT = "vault"


class Priority(StrEnum):
    STAT = "STAT"
    URGENT = "URGENT"
    ROUTINE = "ROUTINE"


class OperatingPoint(StrEnum):
    """Where a calibrated score falls: at or above t_specificity, t_sensitivity, or below both."""

    URGENT = "urgent"
    SUSPICIOUS = "suspicious"
    BELOW = "below"


class WorklistStatus(StrEnum):
    NEW = "new"
    ACKNOWLEDGED = "acknowledged"
    READING = "reading"
    REPORTED = "reported"
    CLOSED = "closed"
    REOPENED = "reopened"


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle in source pixels, from the top left corner."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, kw_only=True)
class ReceivedObject:
    """One listed object of the inbox. `key` may identify a person: never logged."""

    key: str
    etag: str
    size_bytes: int
    modified_at: datetime | None = field(default=None, compare=False)  # as the bucket says; None: not known


@dataclass(frozen=True, kw_only=True)
class RadiographFacts:
    """What imaging reads off the bytes. Identity is already hashed or dropped."""

    sha256: str
    media_type: MediaType
    size_bytes: int
    width_px: int
    height_px: int
    bits_stored: int
    photometric: str  # MONOCHROME1, MONOCHROME2 or RGB, as received
    perceptual_hash: int  # 64 bits, unsigned
    patient_key: str | None = None
    study_key: str | None = None
    sop_instance_key: str | None = None
    body_part: BodyPart = BodyPart.UNKNOWN
    laterality: str | None = None  # L, R or B
    view: str | None = None
    sex: str | None = None
    age_band: str | None = None  # for example 40-49; 90+ for all above
    manufacturer: str | None = None
    ordered_priority: Priority = Priority.ROUTINE


@dataclass(frozen=True, kw_only=True)
class LabelClaim:
    """One opinion, as a label file, a folder name or a reader gave it. Facts that it carries may be None.

    It names its subject in one of four ways: `sha256`, `object_key`, `file_name` (below `scope`, a key prefix), or
    `study_key` (already keyed-hashed).
    """

    subject_kind: str  # sha256 | object_key | file_name | study_key
    subject: str
    value: LabelValue
    source: LabelSource
    scope: str = ""
    meaning: LabelMeaning = LabelMeaning.FRACTURE
    reader: str | None = None
    labelled_at: datetime | None = None
    boxes: tuple[Box, ...] = ()
    patient_key: str | None = None
    study_key: str | None = None
    body_part: BodyPart | None = None
    laterality: str | None = None
    view: str | None = None
    hardware: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Tied:
    """A radiograph, and what it must not be parted from."""

    radiograph_id: int
    sha256: str
    group_key: str
    patient_key: str | None
    study_key: str
    near_duplicate_of: str | None = None  # sha256 of the first of its cluster, a candidate or not


@dataclass(frozen=True, kw_only=True)
class Candidate(Tied):
    """A radiograph with a standing label that a snapshot may take."""

    label: LabelValue
    meaning: LabelMeaning = LabelMeaning.FRACTURE
    boxes: tuple[Box, ...] = ()  # of its fractures, in source pixels


@dataclass(frozen=True, kw_only=True)
class SnapshotMember:
    radiograph_id: int
    sha256: str
    group_key: str
    label: int  # 1 positive, 0 negative
    split: Split
    fold: int | None  # 0..folds-1 in the training split, None elsewhere
    boxes: tuple[Box, ...] = ()  # of its fractures, in source pixels


@dataclass(frozen=True, kw_only=True)
class SnapshotDraft:
    """What a freeze would store: members sorted by sha256, and what was left out and why."""

    id: str
    members: tuple[SnapshotMember, ...]
    left_out: dict[str, int] = field(default_factory=dict)  # reason -> count
    positive_means: str = "fracture"  # or "abnormal": what its positive labels say


@dataclass(frozen=True, kw_only=True)
class StoredRadiograph:
    """What the pixel cache and scoring need to know of a radiograph."""

    radiograph_id: int
    sha256: str  # of the bytes as received
    object_key: str
    media_type: MediaType
    stored_sha256: str | None  # of the bytes under `object_key`; None: not known of old ones, nor of what is not stored


@dataclass(frozen=True, kw_only=True)
class OperatingPoints:
    """Thresholds on the calibrated score, chosen on validation data."""

    t_sensitivity: float
    t_specificity: float
    target_sensitivity: float
    target_specificity: float

    def place(self, score: float) -> OperatingPoint:
        """Where `score` (calibrated, 0 to 1) falls."""
        if score >= self.t_specificity:
            return OperatingPoint.URGENT
        if score >= self.t_sensitivity:
            return OperatingPoint.SUSPICIOUS
        return OperatingPoint.BELOW


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    version: int
    snapshot_id: str
    recipe_id: str
    recipe: dict[str, Any]
    study_name: str | None
    bundle_key: str
    bundle_sha256: str
    metrics: dict[str, Any]
    operating_points: OperatingPoints
    code_version: str
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class EvaluationScore:
    """One calibrated score of one version on one evaluated radiograph."""

    radiograph_id: int
    group_key: str
    label: int
    score: float
    subgroups: dict[str, str] = field(default_factory=dict)  # e.g. {"body_part": "hand", "hardware": "yes"}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the gate says of a challenger."""

    passed: bool
    reasons: tuple[str, ...]  # a sentence per check, failed ones first
    measures: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A probability for one radiograph."""

    radiograph_id: int
    probability: float
    calibrated: float
    operating_point: OperatingPoint
    box: Box | None = None  # where the attention is, in source pixels; None below both points
    heat_map_png: bytes | None = None  # grey map, network input geometry undone: source aspect
    overlay_png: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """A reason why one radiograph has no probability."""

    radiograph_id: int
    reason: str  # code: sentence


Outcome = Scored | Rejected


class AiPriority(StrEnum):
    """What the AI says of a study; `unavailable` where none of its images has a score."""

    URGENT = "urgent"
    SUSPICIOUS = "suspicious"
    BELOW = "below"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, kw_only=True)
class StudyToRank:
    """A study whose place on the worklist is to be found."""

    study_key: str
    version: int | None  # whose scores these are; None: nobody's, and the AI is unavailable
    ordered_priority: Priority  # the highest of its images
    body_parts: tuple[BodyPart, ...]  # each that an image shows, sorted; () where none is known
    arrived_at: datetime
    images: int
    first_radiograph_id: int
    scores: tuple[tuple[int, float, OperatingPoint], ...]  # radiograph_id, calibrated score, where it falls
    unscored: int  # images without a score
    labelled: bool = False  # not listed yet, and read elsewhere already: only looked up where it is asked for

    @property
    def body_part(self) -> BodyPart:
        """One word for all of them."""
        if not self.body_parts:
            return BodyPart.UNKNOWN
        return self.body_parts[0] if len(self.body_parts) == 1 else BodyPart.MIXED


@dataclass(frozen=True, kw_only=True)
class RankedStudy:
    """A study's row on the worklist."""

    study_key: str
    ordered_priority: Priority
    ai_priority: AiPriority
    score: float | None  # the highest calibrated score of its images; None where unavailable
    radiograph_id: int  # the image that decides, or the first
    version: int | None
    body_part: BodyPart
    body_parts: tuple[BodyPart, ...]
    images: int
    images_unscored: int
    raised: bool  # one step up by a region weight
    arrived_at: datetime
    due_at: datetime
    prioritised: bool = True  # False: prioritisation is switched off, and only the ordered priority counts
    ranked_by: str = ""  # hash of the rules that placed it; "": not known
