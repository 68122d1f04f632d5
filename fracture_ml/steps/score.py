"""Everything that is due in a range gets exactly one outcome: a score or a reason. Any number of workers at once."""

import logging
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial

from fracture_ml.core.errors import NotReadable, ObjectNotFound, RequestRefused, StorageUnavailable
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
from fracture_ml.steps.stored import read_stored
from fracture_ml.stores import Stores
from fracture_ml.stores.predictions import Claim, PredictionRow

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
    """Score what is due from `first` to `last` (radiograph ids, both included), the rest of the blocks they are in, and
    what else is due of the same studies: a late view that is urgent does not wait until the archive's turn comes.

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
    due_siblings = partial(patiently, stores.predictions.due_siblings, version)

    def find_blocks() -> dict[int, list[int] | None]:
        """block -> which of its radiographs; None: all that are due. In the order in which they are to be done."""
        ranges = [{"first": first, "last": last}]
        if through is not None:
            ranges.insert(0, {"first": through + 1, "last": patiently(stores.radiographs.newest_id)})
        blocks: dict[int, list[int] | None] = {}
        for part in ranges:
            if own := due_blocks(**part):
                blocks |= dict.fromkeys(own)
                blocks |= {block: ids for block, ids in due_siblings(**part).items() if block not in blocks}
        return blocks

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
        worker = _Worker(stores, version, scorer)
        while blocks:
            found = worker.score(blocks, unless=superseded)
            done += found
            if not found["due"]:
                log.info("version %d: other workers hold what is left, %d blocks", version, len(blocks))
                break
            blocks = {} if patiently(superseded) else find_blocks()  # also those whose worker died meanwhile
    return {name: done[name] for name in ("due", "scored", "rejected")}


class _Worker:
    """Claims blocks, scores and commits them, a few at a time, so that fetching, scoring and writing overlap."""

    def __init__(self, stores: Stores, version: int, scorer: Scorer) -> None:
        self._stores = stores
        self._version = version
        self._scorer = scorer
        self._readable: str | None = None  # the key of the last radiograph that was handed over
        self._failing_since: dict[str, float] = {}  # by object key, on the monotonic clock
        # To claim and to feed the network: block after block, so that the newest is done first, and what this worker
        # cannot begin with is left to others.
        self._turn = threading.Lock()

    def score(self, blocks: Mapping[int, Sequence[int] | None], *, unless: Callable[[], bool]) -> Counter:
        """Every block that nobody else holds, or these radiographs of it; `unless` is asked before each.

        Returns: counts: due, scored, rejected.
        """
        done: Counter = Counter()
        with ThreadPoolExecutor(_CLAIMS, thread_name_prefix="claim") as claiming:
            score_block = partial(patiently, self._score_block, unless=unless)
            for found in claiming.map(score_block, blocks.keys(), blocks.values()):
                done += found
                if found:
                    log.info("version %d: %d have an outcome, of this round", self._version, done["due"])
        return done

    def _score_block(self, block: int, only: Sequence[int] | None, *, unless: Callable[[], bool]) -> Counter:
        """One transaction: claim, score, write the pictures, then the rows that name them."""
        batches: list[Batch] = []
        with ExitStack() as claimed:
            claimed.callback(_cancel, batches)
            with self._turn:
                if unless():
                    return Counter()
                claim = claimed.enter_context(self._stores.predictions.claim(self._version, block))
                if claim is None or not (due := claim.due(only)):
                    return Counter()
                self._feed(due, batches)
            self._remove_leftovers(block, claim)
            outcomes = [outcome for batch in batches for outcome in batch.outcomes()]
            rows = self._save(claim, block, outcomes)
        rejected = sum(row.reason is not None for row in rows)
        return Counter(due=len(due), scored=len(rows) - rejected, rejected=rejected)

    def _feed(self, due: Sequence[StoredRadiograph], batches: list[Batch]) -> None:
        """Hand all of it to the scorer, as fast as that takes it; `batches` grows meanwhile."""
        size = self._scorer.batch_size
        for start in range(0, len(due), size):
            items = [(radiograph, partial(self._read, radiograph)) for radiograph in due[start : start + size]]
            batches.append(self._scorer.submit(items))

    def _save(self, claim: Claim, block: int, outcomes: Sequence[Outcome]) -> list[PredictionRow]:
        """A row per radiograph, in order; the pictures that the rows name are in the bucket."""
        claim.require_held()
        # No two claims write under the same key: a worker that lost its own replaces nothing of the next one's.
        first, last = outcomes[0].radiograph_id, outcomes[-1].radiograph_id
        commit = f"{self._folder_of(block)}/{first}-{last}-{secrets.token_hex(4)}"
        scored = [outcome for outcome in outcomes if isinstance(outcome, Scored)]
        heat_maps = {one.radiograph_id: one.heat_map_png for one in scored if one.heat_map_png is not None}
        overlays = {one.radiograph_id: one.overlay_png for one in scored if one.overlay_png is not None}
        heat_map_keys = self._write(f"{commit}-heat_maps.zip", heat_maps)
        overlay_keys = self._write(f"{commit}-overlays.zip", overlays)
        rows = [_row_of(outcome, heat_map_keys, overlay_keys) for outcome in outcomes]
        try:
            claim.save(rows)
        except Exception:  # the claim is lost, say: where another did the block meanwhile, nobody looks here again
            for key in {*heat_map_keys.values(), *overlay_keys.values()}:
                with suppress(StorageUnavailable):
                    self._stores.bucket.delete(key)
            raise
        return rows

    def _write(self, key: str, pngs: Mapping[int, bytes]) -> dict[int, str]:
        """Put the pictures into one object, where there are any. Returns: radiograph -> the key of its picture."""
        if pngs:
            write_pictures(self._stores.bucket, key, pngs)
        return dict.fromkeys(pngs, key)

    def _read(self, radiograph: StoredRadiograph) -> bytes:
        try:
            data = read_stored(self._stores.bucket, radiograph)
        except (ObjectNotFound, StorageUnavailable) as fault:
            data = self._read_again(radiograph, fault)
        self._readable = radiograph.object_key
        self._failing_since.pop(radiograph.object_key, None)
        return data

    def _read_again(self, radiograph: StoredRadiograph, fault: ObjectNotFound | StorageUnavailable) -> bytes:
        """Once it is known that the bucket hands over other radiographs: the fault was of all of them, or is of this
        one, which is gone, or refused for its storage class, its owner or its key, or lost by a disk.

        Raises: StorageUnavailable: it may be of all of them, or pass by itself. NotReadable: it is this one's.
        """
        if not isinstance(fault, (ObjectNotFound, RequestRefused)):  # it shows by failing for long
            since = self._failing_since.setdefault(radiograph.object_key, time.monotonic())
            if time.monotonic() - since < _FAILS_FOR_S:
                raise fault
        if not self._hands_over_another(radiograph):
            if isinstance(fault, StorageUnavailable):
                raise fault
            raise StorageUnavailable(
                "Radiographs are missing in the bucket, and none of those that were tried is there: look at "
                "FRACTURE_S3_BUCKET, and whether all of it was restored."
            )
        try:
            return read_stored(self._stores.bucket, radiograph)
        except ObjectNotFound:
            raise NotReadable("It is gone from the bucket, which holds others: restore it from a copy.") from None
        except StorageUnavailable:
            raise NotReadable(
                "Object storage does not hand it over, and hands over others: look at its owner, its encryption key, "
                "its storage class and the disk it is on."
            ) from None

    def _hands_over_another(self, radiograph: StoredRadiograph) -> bool:
        read_before = [] if self._readable is None else [self._readable]
        for key in dict.fromkeys([*read_before, *self._stores.radiographs.some_others(radiograph.radiograph_id)]):
            if key != radiograph.object_key:
                with suppress(ObjectNotFound, StorageUnavailable):
                    self._stores.bucket.read(key)
                    return True
        return False

    def _remove_leftovers(self, block: int, claim: Claim) -> None:
        """Remove what killed workers left: pictures of this block that no row names."""
        there = [found.key for found in self._stores.bucket.list(f"{self._folder_of(block)}/")]
        named = claim.pictures()  # asked second, by the claim: what was there while it holds is no later owner's
        for key in there:
            if key not in named:
                self._stores.bucket.delete(key)

    def _folder_of(self, block: int) -> str:
        return keys.attention_block_folder(self._version, block)


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
