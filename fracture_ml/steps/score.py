"""Everything that is due in a range gets exactly one outcome: a score or a reason. Any number of workers at once."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

from fracture_ml.core.errors import NotReadable, ObjectNotFound, RequestRefused, StorageUnavailable, UnusableObject
from fracture_ml.core.records import Outcome, Rejected, Scored, StoredRadiograph
from fracture_ml.model.device import choose_device
from fracture_ml.scoring.score import Batch, Scorer
from fracture_ml.steps import keys
from fracture_ml.steps.bundle import open_bundle, try_again
from fracture_ml.steps.limits import decode_limits
from fracture_ml.steps.patience import patiently
from fracture_ml.steps.pictures import write_pictures
from fracture_ml.steps.scoring_run import is_void
from fracture_ml.steps.settings import Settings
from fracture_ml.stores import Stores
from fracture_ml.stores.predictions import PredictionRow

log = logging.getLogger(__name__)

_FAILS_FOR_S = 60.0  # an object at which the bucket fails for so long, again and again, is not mended by waiting
_CLAIMS = 3  # threads: one feeds the network, the next waits for its turn, the last one writes


def score_batch(
    stores: Stores,
    settings: Settings,
    *,
    version: int,
    first: int,
    last: int,
    through: int | None = None,
    champion: int | None = None,
) -> dict[str, int]:
    """Score what is due from `first` to `last` (radiograph ids, both included), and the rest of the blocks they are in.

    What has arrived since the run was planned, above the id `through` (None: it is left alone), is scored before that:
    a run that scores the whole archive anew takes hours, and nobody's new radiograph waits for its end.

    Once another version than `champion` (None: than `version`) is the champion, nothing more is begun: the next run is
    that one's, and does not wait for this.

    Other workers may do the same at the same time: a block belongs to whoever claims it, and is passed over by all
    others (docs/decisions/022-claims.md). A killed run leaves whole blocks or nothing, and its claims free themselves;
    while Postgres or the bucket is away, a block is tried again for two minutes.

    Returns: counts of what this worker did: due, scored, rejected. What others hold is not waited for.
    Raises:  BundleMismatch: the bundle is not what was registered, or cannot be read; an alert is open and nothing was
             scored.
             StorageUnavailable, DatabaseUnavailable: they stayed away.
    """
    done = Counter(due=0, scored=0, rejected=0)
    due_blocks = partial(patiently, stores.predictions.due_blocks, version)

    def find_blocks() -> list[int]:
        own = due_blocks(first=first, last=last)
        if through is None:
            return own
        arrived = due_blocks(first=through + 1, last=patiently(stores.radiographs.newest_id))
        return list(dict.fromkeys(arrived + own))

    superseded = partial(is_void, stores, version=version, champion=champion)
    blocks = find_blocks()
    if not blocks or patiently(superseded):
        return dict(done)
    scoring = patiently(stores.registry.version_of, version)
    bundle = patiently(open_bundle, stores, scoring)
    if champion not in (None, version):
        patiently(try_again, stores, champion)
    limits = decode_limits(settings)
    device = choose_device(settings.device)
    with Scorer(bundle, device, limits=limits, threads=settings.threads, colours_checked=True) as scorer:
        worker = _Worker(stores, version, scorer, readable=scoring.bundle_key)
        while blocks:
            found = worker.score(blocks, unless=superseded)
            done += found
            if not found["due"]:
                log.info("version %d: other workers hold what is left, %d blocks", version, len(blocks))
                break
            blocks = [] if patiently(superseded) else find_blocks()  # also those whose worker died meanwhile
    return {name: done[name] for name in ("due", "scored", "rejected")}


class _Worker:
    """Claims blocks, scores and commits them, a few at a time, so that fetching, scoring and writing overlap."""

    def __init__(self, stores: Stores, version: int, scorer: Scorer, *, readable: str) -> None:
        """readable: the key of an object that could be read."""
        self._stores = stores
        self._version = version
        self._scorer = scorer
        self._readable = readable
        self._failing_since: dict[str, float] = {}  # by object key, on the monotonic clock
        # To claim and to feed the network: block after block, so that the newest is done first, and what this worker
        # cannot begin with is left to others.
        self._turn = threading.Lock()

    def score(self, blocks: Iterable[int], *, unless: Callable[[], bool]) -> Counter:
        """Every block that nobody else holds; `unless` is asked before each. Returns: counts: due, scored, rejected."""
        done: Counter = Counter()
        with ThreadPoolExecutor(_CLAIMS, thread_name_prefix="claim") as claiming:
            for found in claiming.map(partial(patiently, self._score_block, unless=unless), blocks):
                done += found
                if found:
                    log.info("version %d: %d have an outcome, of this round", self._version, done["due"])
        return done

    def _score_block(self, block: int, *, unless: Callable[[], bool]) -> Counter:
        """One transaction: claim, score, write the pictures, then the rows that name them."""
        batches: list[Batch] = []
        with ExitStack() as claimed:
            claimed.callback(_cancel, batches)
            with self._turn:
                if unless():
                    return Counter()
                claim = claimed.enter_context(self._stores.predictions.claim(self._version, block))
                if claim is None or not (due := claim.due()):
                    return Counter()
                self._feed(due, batches)
            outcomes = [outcome for batch in batches for outcome in batch.outcomes()]
            claim.require_held()  # else its next owner's pictures could be taken for leftovers
            rows = self._write_pictures(block, outcomes)
            claim.save(rows)
        rejected = sum(row.reason is not None for row in rows)
        return Counter(due=len(due), scored=len(rows) - rejected, rejected=rejected)

    def _feed(self, due: Sequence[StoredRadiograph], batches: list[Batch]) -> None:
        """Hand all of it to the scorer, as fast as that takes it; `batches` grows meanwhile."""
        size = self._scorer.batch_size
        for start in range(0, len(due), size):
            items = [(radiograph, partial(self._read, radiograph)) for radiograph in due[start : start + size]]
            batches.append(self._scorer.submit(items))

    def _write_pictures(self, block: int, outcomes: Sequence[Outcome]) -> list[PredictionRow]:
        """A row per radiograph, in order; the pictures that the rows name are in the bucket, and no others."""
        folder = f"{keys.attention_block_folder(self._version, block)}/"
        # Not even a worker that lost its claim to one that found more has the same first and last radiograph.
        commit = f"{folder}{outcomes[0].radiograph_id}-{outcomes[-1].radiograph_id}"
        scored = [outcome for outcome in outcomes if isinstance(outcome, Scored)]
        heat_maps = {one.radiograph_id: one.heat_map_png for one in scored if one.heat_map_png is not None}
        overlays = {one.radiograph_id: one.overlay_png for one in scored if one.overlay_png is not None}
        heat_map_keys = self._write(f"{commit}-heat_maps.zip", heat_maps)
        overlay_keys = self._write(f"{commit}-overlays.zip", overlays)
        rows = [_row_of(outcome, heat_map_keys, overlay_keys) for outcome in outcomes]
        self._remove_leftovers(folder, rows)
        return rows

    def _write(self, key: str, pngs: Mapping[int, bytes]) -> dict[int, str]:
        """Put the pictures into one object, where there are any. Returns: radiograph -> the key of its picture."""
        if pngs:
            write_pictures(self._stores.bucket, key, pngs)
        return dict.fromkeys(pngs, key)

    def _read(self, radiograph: StoredRadiograph) -> bytes:
        try:
            data = self._stores.bucket.read(radiograph.object_key)
        except ObjectNotFound:
            raise UnusableObject("The stored object of this radiograph is gone from the bucket.") from None
        except StorageUnavailable as fault:
            # Of this object alone, where another can be read: refused for its storage class, its owner or its key, or
            # lost by a disk, which shows by failing for long.
            since = self._failing_since.setdefault(radiograph.object_key, time.monotonic())
            if not isinstance(fault, RequestRefused) and time.monotonic() - since < _FAILS_FOR_S:
                raise
            self._stores.bucket.read(self._readable)
            raise NotReadable("Object storage does not hand over this radiograph, and hands over others.") from None
        self._readable = radiograph.object_key
        self._failing_since.pop(radiograph.object_key, None)
        return data

    def _remove_leftovers(self, folder: str, rows: Sequence[PredictionRow]) -> None:
        """Remove pictures of a killed worker that no row will name: scores at a threshold's very edge may differ."""
        named = {key for row in rows for key in (row.heat_map_key, row.overlay_key)}
        due = {str(row.radiograph_id) for row in rows}
        for found in self._stores.bucket.list(folder):
            if found.key not in named and found.key.removeprefix(folder).split("-")[0] in due:
                self._stores.bucket.delete(found.key)


def _row_of(outcome: Outcome, heat_map_keys: Mapping[int, str], overlay_keys: Mapping[int, str]) -> PredictionRow:
    if isinstance(outcome, Rejected):
        return PredictionRow(radiograph_id=outcome.radiograph_id, reason=outcome.reason)
    return PredictionRow(
        radiograph_id=outcome.radiograph_id,
        probability=outcome.probability,
        calibrated=outcome.calibrated,
        operating_point=outcome.operating_point,
        box=outcome.box,
        heat_map_key=heat_map_keys.get(outcome.radiograph_id),
        overlay_key=overlay_keys.get(outcome.radiograph_id),
    )


def _cancel(batches: Sequence[Batch]) -> None:
    for batch in batches:
        batch.cancel()
