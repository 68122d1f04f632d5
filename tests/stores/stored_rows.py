"""Drawn rows for the tests of the stores."""

import hashlib
import itertools
from dataclasses import astuple
from datetime import UTC, datetime

from fracture_ml.core.recipe import SplitPlan, TrainRecipe, hash_of_json
from fracture_ml.core.records import (
    LabelClaim,
    LabelSource,
    LabelValue,
    MediaType,
    ModelVersion,
    OperatingPoints,
    RadiographFacts,
    ReceivedObject,
    SnapshotDraft,
    SnapshotMember,
    Split,
)
from fracture_ml.stores import Stores
from fracture_ml.stores.radiographs import Arrival

POINTS = OperatingPoints(t_sensitivity=0.3, t_specificity=0.7, target_sensitivity=0.95, target_specificity=0.95)


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def received(key: str, etag: str = "e1") -> ReceivedObject:
    return ReceivedObject(key=key, etag=etag, size_bytes=1000)


def claim(subject: str, value: str = "positive", kind: str = "object_key", **facts) -> LabelClaim:
    facts = {"source": LabelSource.DATASET, **facts}
    return LabelClaim(subject_kind=kind, subject=subject, value=LabelValue(value), **facts)


def arrival(key: str, content: str | None = None, *, bits: int | None = None, claims=(), **facts) -> Arrival:
    """A drawn arrival; `bits` is its perceptual hash, else one far from all others."""
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
        claims=tuple(claims),
    )


def receive(stores: Stores, *arrivals: Arrival) -> list[int]:
    """Record arrivals; their radiograph ids, in the same order."""
    stores.radiographs.record_radiographs(arrivals, near_duplicate_bits=4)
    with stores.engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT sha256, radiograph_id FROM fracture.radiograph")
        ids = {row.sha256: row.radiograph_id for row in rows}
    return [ids[one.facts.sha256] for one in arrivals]


def freeze(stores: Stores, *, as_of: datetime | None = None) -> str:
    """Freeze all candidates, the first into the training split and the others into the test split."""
    as_of = as_of or datetime.now(UTC)
    members = tuple(
        SnapshotMember(
            radiograph_id=one.radiograph_id,
            sha256=one.sha256,
            group_key=one.group_key,
            label=int(one.label == LabelValue.POSITIVE),
            split=Split.TEST if place else Split.TRAIN,
            fold=None if place else 0,
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
    stores: Stores, snapshot_id: str, *, code_version: str | None = None, scores=(), metrics=None
) -> ModelVersion:
    """Register a drawn version, a new one unless `code_version` repeats."""
    recipe = TrainRecipe()
    return stores.registry.register(
        snapshot_id=snapshot_id,
        recipe_id=recipe.id,
        recipe=recipe.to_json(),
        study_name="study",
        bundle_key="bundles/one",
        bundle_sha256=sha("bundle"),
        metrics=metrics or {"auroc": {"value": 0.9, "low": float("nan")}},
        operating_points=POINTS,
        code_version=code_version or next(_code_versions),
        scores=scores,
        actor="retrain",
    )
