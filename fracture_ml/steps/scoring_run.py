"""The hour's scoring before and after its batches: what is due, and whether all of it was done. Needs no torch."""

import logging
import math

from fracture_ml.core.errors import NotReconciled
from fracture_ml.steps.champion import find_scoring_version
from fracture_ml.stores import Stores

log = logging.getLogger(__name__)

_NAMED = 100  # radiographs without an outcome, in the error
MAX_BATCHES = 1000  # Airflow's own limit (core.max_map_length) is 1,024 unless somebody raised it


def plan_scoring(stores: Stores, *, retry_unscored: str | None = None) -> dict:
    """What this run owes: the version that scores, and the newest radiograph that it must have an outcome for.

    Args:    retry_unscored: the code of a reason: what has it in place of a score of this version is owed one again.
    Returns: {"version": int | None, "champion": int | None, "through": radiograph_id}. The two versions differ where
             the champion's bundle is refused. Without a champion nothing is owed. The plan holds while the champion is
             this one: a promotion or a roll-back ends the run early, so that the next one does not wait for it.
    """
    champion = stores.registry.find_champion()  # first: one that comes meanwhile makes this plan void
    scoring = find_scoring_version(stores)
    if scoring is None:
        log.warning("no champion yet: studies are listed as AI unavailable until a model is promoted")
    elif retry_unscored:
        retried = stores.predictions.retry(scoring.version, retry_unscored)
        log.info("version %d: %d radiographs without a score are due again", scoring.version, retried)
    return {
        "version": scoring.version if scoring else None,
        "champion": champion.version if champion else None,
        "through": stores.radiographs.newest_id(),
    }


def is_void(stores: Stores, *, version: int, champion: int | None = None, **_: int) -> bool:
    """Whether another version has become the champion since this plan, or this batch of it, was made.

    Args: champion: the plan's; None: `version` itself.
    """
    planned_with = version if champion is None else champion
    if stores.registry.is_champion(planned_with):
        return False
    log.warning("version %d is the champion no more: what version %d has left is the next run's", planned_with, version)
    return True


def cut_batches(
    stores: Stores, *, version: int | None, through: int, batch_size: int, champion: int | None = None
) -> list[dict]:
    """Ranges of radiograph ids with no outcome, newest first: {"version", "champion", "first", "last", "through"}.

    A new champion owes a score to the whole archive; the patients who wait are among the newest. Each range has
    `batch_size` radiographs; more where there would be over `MAX_BATCHES`, which Airflow maps no task to.
    """
    if version is None:
        return []
    ranges = stores.predictions.due_ranges(version, batch_size=batch_size, through=through)
    together = max(1, math.ceil(len(ranges) / MAX_BATCHES))
    return [
        {"version": version, "champion": champion, "first": part[-1][0], "last": part[0][1], "through": through}
        for part in (ranges[start : start + together] for start in range(0, len(ranges), together))
    ]


def reconcile(stores: Stores, *, version: int | None, through: int, champion: int | None = None) -> dict[str, int]:
    """Check that every radiograph up to `through` has exactly one outcome of `version`, unless the plan is void.

    Raises: NotReconciled: some have none; it names the first of them.
    """
    if version is None:
        stores.monitoring.note_done("scoring")  # nothing is owed
        return {"radiographs": 0, "scored": 0, "rejected": 0, "missing": 0}
    counts = stores.predictions.reconcile(version, through=through)
    if counts["missing"] and is_void(stores, version=version, champion=champion):
        return counts
    if counts["missing"]:
        first = stores.predictions.missing(version, through=through, limit=_NAMED)
        raise NotReconciled(
            f"{counts['missing']} of {counts['radiographs']} radiographs have no outcome of version {version}: "
            f"{', '.join(map(str, first))}{', ...' if counts['missing'] > len(first) else ''}; run the scoring again"
        )
    stores.monitoring.note_done("scoring")
    log.info("version %d: %d radiographs = %d scored + %d that could not be", version, *list(counts.values())[:3])
    return counts
