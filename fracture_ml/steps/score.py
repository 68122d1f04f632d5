"""Everything that is due in a batch gets exactly one outcome: a score or a reason."""

import logging
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from fracture_ml.core.errors import BundleMismatch, ObjectNotFound, UnusableObject
from fracture_ml.core.records import ModelVersion, Outcome, Rejected, StoredRadiograph
from fracture_ml.model.bundle import Bundle
from fracture_ml.model.device import choose_device
from fracture_ml.scoring.score import Scorer
from fracture_ml.steps.ingest import decode_limits
from fracture_ml.steps.settings import Settings
from fracture_ml.stores import Stores
from fracture_ml.stores.predictions import PredictionRow

log = logging.getLogger(__name__)

_FETCH_AHEAD = 64
_FETCH_THREADS = 8
_ROWS_PER_TRANSACTION = 256


def score_batch(stores: Stores, settings: Settings, *, version: int, first: int, last: int) -> dict[str, int]:
    """Score what is due from `first` to `last` (radiograph ids, both included).

    Bytes are written before the rows that name them; a killed run leaves whole rows or none, and the next one goes on.
    Returns: counts: due, scored, rejected.
    Raises:  BundleMismatch: the bundle is not what was registered; an alert is open and nothing was scored.
    """
    due = stores.predictions.due(version, first=first, last=last, limit=last - first + 1)
    counts = Counter(due=len(due), scored=0, rejected=0)
    if not due:
        return dict(counts)
    registered = stores.registry.version_of(version)
    bundle = _open_bundle(stores, registered)
    scorer = Scorer(bundle, choose_device(settings.device), limits=decode_limits(settings))
    with ThreadPoolExecutor(_FETCH_THREADS, thread_name_prefix="fetch") as pool:
        outcomes = scorer.score(_fetched_ahead(stores, pool, due))
        while chunk := list(islice(outcomes, _ROWS_PER_TRANSACTION)):
            rows = list(pool.map(lambda outcome: _write_maps(stores, version, outcome), chunk))
            stores.predictions.save(version, rows)
            counts["scored"] += sum(row.reason is None for row in rows)
            counts["rejected"] += sum(row.reason is not None for row in rows)
            log.info("version %d: %d of %d have an outcome", version, counts["scored"] + counts["rejected"], len(due))
    return dict(counts)


def _open_bundle(stores: Stores, registered: ModelVersion) -> Bundle:
    """The registered bundle; where it is not what was registered, an alert is opened before it is refused."""
    subject = f"version {registered.version}"
    try:
        data = stores.bucket.read(registered.bundle_key)
        bundle = Bundle.from_bytes(data, expected_sha256=registered.bundle_sha256)
    except (BundleMismatch, ObjectNotFound) as fault:
        sentence = f"The bundle of {subject} is refused, and nothing is scored with it. {fault}"
        stores.monitoring.raise_alert("bundle", subject, sentence)
        raise BundleMismatch(sentence) from None
    stores.monitoring.settle_alert("bundle", subject)
    return bundle


def _fetched_ahead(
    stores: Stores, pool: ThreadPoolExecutor, due: Sequence[StoredRadiograph]
) -> Iterator[tuple[StoredRadiograph, bytes | UnusableObject]]:
    """The bytes of each, in order, at most `_FETCH_AHEAD` of them fetched before they are asked for."""
    waiting: deque[tuple[StoredRadiograph, Future]] = deque()
    for radiograph in due:
        waiting.append((radiograph, pool.submit(_fetch, stores, radiograph)))
        if len(waiting) >= _FETCH_AHEAD:
            oldest, future = waiting.popleft()
            yield oldest, future.result()
    while waiting:
        oldest, future = waiting.popleft()
        yield oldest, future.result()


def _fetch(stores: Stores, radiograph: StoredRadiograph) -> bytes | UnusableObject:
    try:
        return stores.bucket.read(radiograph.object_key)
    except ObjectNotFound:
        return UnusableObject("The stored object of this radiograph is gone from the bucket.")


def _write_maps(stores: Stores, version: int, outcome: Outcome) -> PredictionRow:
    """Put the outcome's pictures into the bucket, and return its row."""
    if isinstance(outcome, Rejected):
        return PredictionRow(radiograph_id=outcome.radiograph_id, reason=outcome.reason)
    keys = {}
    for name, png in (("heat_map", outcome.heat_map_png), ("overlay", outcome.overlay_png)):
        if png is not None:
            keys[f"{name}_key"] = f"attention/{version}/{outcome.radiograph_id}-{name}.png"
            stores.bucket.write(keys[f"{name}_key"], png, "image/png")
    return PredictionRow(
        radiograph_id=outcome.radiograph_id,
        probability=outcome.probability,
        calibrated=outcome.calibrated,
        operating_point=outcome.operating_point,
        box=outcome.box,
        **keys,
    )
