"""The hour's scoring before and after its batches: what is due, and whether all of it was done. Needs no torch."""

import hashlib
import logging
from collections.abc import Sequence

from fracture_ml.core.errors import NotReconciled, ObjectNotFound
from fracture_ml.core.records import ModelVersion
from fracture_ml.stores import Stores

log = logging.getLogger(__name__)


def plan_scoring(stores: Stores) -> dict:
    """What this run owes: the version that scores, and the newest radiograph that it must have an outcome for.

    Returns: {"version": int | None, "through": radiograph_id}. Without a champion nothing is owed.
    """
    scoring = find_scoring_version(stores)
    if scoring is None:
        log.warning("no champion yet: studies are listed as AI unavailable until a model is promoted")
    return {"version": scoring.version if scoring else None, "through": stores.radiographs.newest_id()}


def find_scoring_version(stores: Stores) -> ModelVersion | None:
    """The champion; where its bundle is not what was registered, the newest champion before it whose bundle is.

    A refused bundle opens an alert, which is settled once the bundle is whole again. Where none is whole, the champion
    is returned all the same: whoever opens its bundle is refused, and the run fails.

    Raises: StorageUnavailable, DatabaseUnavailable.
    """
    line = stores.registry.line_of_champions()[::-1]
    refused: list[ModelVersion] = []
    for version in line:
        if version in refused:
            continue
        if _is_whole(stores, version):
            stores.monitoring.settle_alert("bundle", f"version {version.version}")
            _alert(stores, refused, f"version {version.version} keeps scoring")
            return version
        refused.append(version)
    _alert(stores, refused, "no champion before it has a whole one, and nothing is scored")
    return line[0] if line else None


def _alert(stores: Stores, refused: Sequence[ModelVersion], meanwhile: str) -> None:
    for version in refused:
        sentence = (
            f"The bundle of version {version.version} is not what was registered and is refused; {meanwhile}. "
            "Restore the bundle from a copy, or roll back."
        )
        log.error("%s", sentence)
        stores.monitoring.raise_alert("bundle", f"version {version.version}", sentence)


def _is_whole(stores: Stores, version: ModelVersion) -> bool:
    try:
        data = stores.bucket.read(version.bundle_key)
    except ObjectNotFound:
        return False
    return hashlib.sha256(data).hexdigest() == version.bundle_sha256


def cut_batches(stores: Stores, *, version: int | None, through: int, batch_size: int) -> list[dict]:
    """Ranges of radiograph ids with no outcome, `batch_size` radiographs each: {"version", "first", "last"}."""
    if version is None:
        return []
    ranges = stores.predictions.due_ranges(version, batch_size=batch_size, through=through)
    return [{"version": version, "first": first, "last": last} for first, last in ranges]


def reconcile(stores: Stores, *, version: int | None, through: int) -> dict[str, int]:
    """Check that every radiograph up to `through` has exactly one outcome of `version`.

    Raises: NotReconciled: some have none.
    """
    if version is None:
        return {"radiographs": 0, "scored": 0, "rejected": 0, "missing": 0}
    counts = stores.predictions.reconcile(version, through=through)
    if counts["missing"]:
        raise NotReconciled(
            f"{counts['missing']} of {counts['radiographs']} radiographs have no outcome of version {version}; "
            "run the scoring again"
        )
    log.info("version %d: %d radiographs = %d scored + %d that could not be", version, *list(counts.values())[:3])
    return counts
