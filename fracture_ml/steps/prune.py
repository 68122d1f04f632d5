"""What nobody can see any more is taken out of the bucket; no row is touched."""

import logging
from datetime import datetime, timedelta

from fracture_ml.core.records import ReceivedObject
from fracture_ml.steps import keys
from fracture_ml.stores import Stores

log = logging.getLogger(__name__)

KEPT_FOR = timedelta(days=7)  # whatever is younger may belong to work that goes on
_CHAMPIONS_KEPT = 2  # the present one, and the one that a roll-back returns to


def prune(stores: Stores, *, at: datetime, dry_run: bool = False) -> dict[str, int]:
    """Delete pictures of earlier versions that no study on the worklist shows, and checkpoints that were given up.

    The pictures of the last two champions stay, and so do those of closed studies, which keep what their reader saw.

    Args:    dry_run: count, and delete nothing.
    Returns: "pictures" and "checkpoints", objects; "bytes" of both.
    Raises:  StorageUnavailable, DatabaseUnavailable: what was deleted by then stays so.
    """
    kept = {model.version for model in stores.registry.line_of_champions()[-_CHAMPIONS_KEPT:]}
    pictures: list[ReceivedObject] = []
    for model in stores.registry.versions():
        if model.version not in kept:
            shown = stores.predictions.pictures_shown(model.version)
            drawn = stores.bucket.list(f"{keys.attention_folder(model.version)}/")
            pictures += [found for found in drawn if found.key not in shown and _is_old(found, at)]
    checkpoints = [
        found
        for found in stores.bucket.list(f"{keys.TRAININGS}/")
        if found.key.endswith(f"/{keys.CHECKPOINT}") and _is_old(found, at)
    ]
    if not dry_run:
        for found in [*pictures, *checkpoints]:
            stores.bucket.delete(found.key)
    counts = {
        "pictures": len(pictures),
        "checkpoints": len(checkpoints),
        "bytes": sum(found.size_bytes for found in [*pictures, *checkpoints]),
    }
    log.info("%s: %s", "would be deleted" if dry_run else "deleted", counts)
    return counts


def _is_old(found: ReceivedObject, at: datetime) -> bool:
    return found.modified_at is not None and found.modified_at < at - KEPT_FOR
