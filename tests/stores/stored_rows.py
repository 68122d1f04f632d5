"""Drawn rows for the tests of the stores."""

import hashlib
import itertools
from dataclasses import astuple, replace
from datetime import UTC, datetime, timedelta

from fracture_ml.core.recipe import SplitPlan, TrainRecipe, hash_of_json
from fracture_ml.core.records import (
    AiPriority,
    LabelClaim,
    LabelSource,
    LabelValue,
    MediaType,
    ModelVersion,
    OperatingPoint,
    OperatingPoints,
    RadiographFacts,
    RankedStudy,
    ReceivedObject,
    SnapshotDraft,
    SnapshotMember,
    Split,
    StudyToRank,
)
from fracture_ml.stores import Stores
from fracture_ml.stores.predictions import PredictionRow
from fracture_ml.stores.radiographs import Arrival

POINTS = OperatingPoints(t_sensitivity=0.3, t_specificity=0.7, target_sensitivity=0.95, target_specificity=0.95)


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def received(key: str, etag: str = "e1") -> ReceivedObject:
    return ReceivedObject(key=key, etag=etag, size_bytes=1000)


def claim(subject: str, value: str = "positive", kind: str = "object_key", **facts) -> LabelClaim:
    facts = {"source": LabelSource.DATASET, **facts}
    return LabelClaim(subject_kind=kind, subject=subject, value=LabelValue(value), **facts)


def arrival(
    key: str, content: str | None = None, *, bits: int | None = None, stored: bytes = b"", claims=(), **facts
) -> Arrival:
    """A drawn arrival; `bits` is its perceptual hash, else one far from all others. stored: what its object holds."""
    digest = sha(content or key)
    facts = {
        "sha256": digest,
        "media_type": MediaType.PNG,
        "size_bytes": 1000,
        "width_px": 400,
        "height_px": 500,
        "bits_stored": 8,
        "photometric": "MONOCHROME2",
        "perceptual_hash": int(digest[:16], 16) if bits is None else bits,
        **facts,
    }
    return Arrival(
        received=received(key),
        facts=RadiographFacts(**facts),
        object_key=f"radiographs/{digest}",
        stored_sha256=hashlib.sha256(stored).hexdigest(),
        claims=tuple(claims),
    )


def receive(stores: Stores, *arrivals: Arrival) -> list[int]:
    """Record arrivals; their radiograph ids, in the same order."""
    stores.radiographs.record_radiographs(arrivals, near_duplicate_bits=4)
    with stores.engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT sha256, radiograph_id FROM fracture.radiograph")
        ids = {row.sha256: row.radiograph_id for row in rows}
    return [ids[one.facts.sha256] for one in arrivals]


def freeze(stores: Stores, *, as_of: datetime | None = None, training: int = 1) -> str:
    """Freeze all candidates, the first `training` into the training split and the others into the test split."""
    as_of = as_of or datetime.now(UTC)
    members = tuple(
        SnapshotMember(
            radiograph_id=one.radiograph_id,
            sha256=one.sha256,
            group_key=one.group_key,
            label=int(one.label == LabelValue.POSITIVE),
            split=Split.TRAIN if place < training else Split.TEST,
            fold=0 if place < training else None,
            boxes=one.boxes,
        )
        for place, one in enumerate(stores.radiographs.candidates(as_of=as_of))
    )
    rows = [[member.sha256, [astuple(box) for box in member.boxes]] for member in members]
    draft = SnapshotDraft(id=hash_of_json(rows), members=members)
    stores.snapshots.save(draft, SplitPlan(), as_of=as_of)
    return draft.id


_code_versions = (f"code-{number}" for number in itertools.count())


def register(
    stores: Stores,
    snapshot_id: str,
    *,
    code_version: str | None = None,
    scores=(),
    metrics=None,
    bundle=("bundles/one", b"bundle"),
    points=POINTS,
) -> ModelVersion:
    """Register a drawn version, a new one unless `code_version` repeats. bundle: its key and bytes."""
    recipe = TrainRecipe()
    return stores.registry.register(
        snapshot_id=snapshot_id,
        recipe_id=recipe.id,
        recipe=recipe.to_json(),
        study_name="study",
        bundle_key=bundle[0],
        bundle_sha256=hashlib.sha256(bundle[1]).hexdigest(),
        metrics=metrics or {"auroc": {"value": 0.9, "low": float("nan")}},
        operating_points=points,
        code_version=code_version or next(_code_versions),
        scores=scores,
        actor="retrain",
    )


def scored(radiograph_id: int, score: float = 0.5) -> PredictionRow:
    return PredictionRow(
        radiograph_id=radiograph_id, probability=score, calibrated=score, operating_point=OperatingPoint.SUSPICIOUS
    )


def rejected(radiograph_id: int) -> PredictionRow:
    return PredictionRow(radiograph_id=radiograph_id, reason="truncated: the file ends early")


def ranked(study: StudyToRank, **changes) -> RankedStudy:
    """A study at its ordered priority, due in an hour; `score` and `ai_priority` as its best image has them."""
    best = max(study.scores, key=lambda one: one[1], default=(study.first_radiograph_id, None, AiPriority.UNAVAILABLE))
    row = RankedStudy(
        study_key=study.study_key,
        ordered_priority=study.ordered_priority,
        ai_priority=AiPriority(best[2]),
        score=best[1],
        radiograph_id=best[0],
        version=study.version,
        body_part=study.body_part,
        body_parts=study.body_parts,
        images=study.images,
        images_unscored=study.unscored,
        raised=False,
        arrived_at=study.arrived_at,
        due_at=study.arrived_at + timedelta(hours=1),
    )
    return replace(row, **changes)


def list_studies(stores, version: int | None = None) -> int:
    studies = stores.worklist.studies_to_rank(version)
    return stores.worklist.save_items([ranked(study) for study in studies])


def act(stores, study_key: str, action: str, *, actor: str = "dr a", **details):
    row_version = stores.worklist.item_of(study_key)["row_version"]
    return stores.worklist.act(study_key, action, actor=actor, row_version=row_version, details=details)


def events(stores: Stores, study_key: str) -> list[str]:
    """What happened to a listed study, oldest first."""
    return [event["event"] for event in stores.worklist.item_of(study_key)["events"]]
