"""The inbox's objects become radiographs, labels or quarantine rows: each exactly one outcome."""

import hashlib
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice

from fracture_ml.core.errors import (
    DatabaseUnavailable,
    FractureError,
    NoMemoryLeft,
    NotReadable,
    NotReconciled,
    ObjectNotFound,
    ObjectWithheld,
    RowRefused,
    UnusableObject,
)
from fracture_ml.core.records import ReceivedObject
from fracture_ml.data.labels import claims_of_key, claims_of_label_file, is_label_file
from fracture_ml.imaging.decode import DecodeLimits
from fracture_ml.imaging.deidentify import deidentify, keyed_hash
from fracture_ml.imaging.facts import read_facts
from fracture_ml.imaging.fingerprint import NEAR_DUPLICATE_BITS
from fracture_ml.steps import keys
from fracture_ml.steps.erase import Erased
from fracture_ml.steps.limits import decode_limits
from fracture_ml.steps.settings import Settings
from fracture_ml.stores import Stores
from fracture_ml.stores.bucket import Bucket
from fracture_ml.stores.radiographs import Arrival

log = logging.getLogger(__name__)

_ROWS_PER_TRANSACTION = 128
_KEYS_PER_LOOKUP = 1000
_PROBES = 3  # other objects that are read to tell a refused object from a key without rights
_SECONDS_BETWEEN_LINES = 5.0
_PARTS_AHEAD = 1  # looked at while the one before is recorded
_MOST_ATTEMPTS = 3  # that a process may be killed in: twice of them with the object alone
_STOPS_THE_READER = (
    "Each process that looked at it was killed: it needs more memory than there is, or meets a fault of a decoder. "
    "Look at it by hand; `fracture ingest --retry stops_the_reader` tries again."
)
_ERASED = (
    "These bytes were erased here (fracture.erasure says when, and why) and were sent again: whoever did so must take "
    "them back. `fracture erase --object` takes this name out too."
)


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """An object that cannot become a radiograph, and why."""

    received: ReceivedObject
    code: str
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Vanished:
    """An object that was listed, and was gone when it was fetched."""

    received: ReceivedObject


@dataclass(frozen=True, kw_only=True)
class Unfetched:
    """An object that object storage lists, and refuses to hand over."""

    received: ReceivedObject
    fault: ObjectWithheld


Finding = Arrival | Refusal | Vanished | Unfetched


def ingest_inbox(
    stores: Stores, settings: Settings, *, threads: int = 4, retry_quarantined: str | None = None
) -> dict[str, int]:
    """Give every new object of the inbox its one outcome. Label files first, then images.

    Args:    retry_quarantined: a code of the quarantine, whose objects are looked at anew, after a change of settings.
    Returns: counts of this run: listed, new, radiograph, copy, labels, quarantined, vanished, kept_apart (radiographs
             that were listed before a label file named their study); where asked for, retried, and gone from the inbox.
    Raises:  NotReconciled: an object has no outcome. StorageUnavailable, DatabaseUnavailable: worth a retry; what was
             recorded before stays.
    """
    stores.radiographs.require_site_secret(keyed_hash(settings.site_secret_bytes, "the site's secret"))
    with stores.erasures.none_meanwhile():
        return _ingest(stores, settings, threads, retry_quarantined)


def _ingest(stores: Stores, settings: Settings, threads: int, retry_quarantined: str | None) -> dict[str, int]:
    erased = Erased(stores, settings)
    counts = Counter(listed=0, new=0, radiograph=0, copy=0, labels=0, quarantined=0, vanished=0, kept_apart=0)
    if retry_quarantined:
        counts["retried"] = 0
    new: list[ReceivedObject] = []
    known: list[ReceivedObject] = []  # some of them
    for listed in _chunks(stores.bucket.list(settings.inbox_prefix), _KEYS_PER_LOOKUP):
        counts["listed"] += len(listed)
        if retry_quarantined:
            counts["retried"] += stores.radiographs.retry_quarantined(retry_quarantined, listed)
        unknown = stores.radiographs.unknown_objects(listed)
        new += unknown
        if len(known) < _PROBES:
            known += sorted(set(listed) - set(unknown), key=lambda received: received.size_bytes)[:_PROBES]
    counts["new"] = len(new)
    log.info("%d objects in the inbox, %d of them new", counts["listed"], counts["new"])
    if retry_quarantined:
        counts["gone"] = stores.radiographs.quarantined_with(retry_quarantined)
        if counts["gone"]:
            log.warning("%d more were quarantined so and left the inbox: they stay as they are", counts["gone"])

    label_files = [received for received in new if is_label_file(received.key)]
    images = [received for received in new if not is_label_file(received.key)]
    of_label_files, unfetched = _take_label_files(stores, settings, label_files, erased)
    counts.update(of_label_files)
    if counts["kept_apart"]:
        log.warning(
            "%d radiographs were listed before a label file named their study, and stay studies of their own: send the "
            "label file with the images or before them",
            counts["kept_apart"],
        )

    of_images, withheld = _take_images(stores, settings, images, threads, erased)
    counts.update(of_images)
    unfetched += withheld
    if unfetched:
        refused = {one.received for one in unfetched}
        readable = [received for received in new if received not in refused]
        counts["quarantined"] += _set_aside(stores, unfetched, [*known, *readable[:_PROBES]])
    without_outcome = len(stores.radiographs.unknown_objects(new)) - counts["vanished"]
    if without_outcome:
        raise NotReconciled(f"{without_outcome} of {len(new)} new objects have no outcome; run the ingest again")
    stores.monitoring.note_done("ingest")
    log.info("ingest: %s", ", ".join(f"{name} {count}" for name, count in counts.items()))
    return dict(counts)


def _set_aside(stores: Stores, unfetched: list[Unfetched], others: list[ReceivedObject]) -> int:
    """Quarantine what object storage refuses, where it hands over another object of the inbox. Returns: how many.

    Raises: ObjectWithheld: it hands over none of them; then no object is at fault.
    """
    if not any(_can_be_read(stores.bucket, received) for received in others):
        raise unfetched[0].fault
    for one in unfetched:
        stores.radiographs.record_quarantined(
            one.received,
            NotReadable.code,
            "Object storage does not hand it over, and hands over others: look at its owner, its encryption key, its "
            "storage class and the disk it is on, then run `fracture ingest --retry not_readable`.",
        )
    return len(unfetched)


def _can_be_read(bucket: Bucket, received: ReceivedObject) -> bool:
    try:
        bucket.read(received.key)
    except (ObjectWithheld, ObjectNotFound):
        return False
    return True


def _begun_before(stores: Stores, objects: list[ReceivedObject]) -> tuple[list[ReceivedObject], list[ReceivedObject]]:
    """Those with which a process had begun that was killed, and the others.

    What too many of them had begun with is in neither: it is quarantined.
    """
    attempts = stores.radiographs.attempts_of(objects)
    suspects = [received for received, count in attempts.items() if count < _MOST_ATTEMPTS]
    for received in attempts.keys() - set(suspects):
        stores.radiographs.record_quarantined(received, "stops_the_reader", _STOPS_THE_READER)
        stores.radiographs.end_attempts([received])
    return suspects, [one for one in objects if one not in attempts]


def _take_label_files(
    stores: Stores, settings: Settings, label_files: list[ReceivedObject], erased: Erased
) -> tuple[Counter, list[Unfetched]]:
    """Read each by itself. Returns: counts, and what has no outcome yet."""
    suspects, others = _begun_before(stores, label_files)
    counts: Counter = Counter(quarantined=len(label_files) - len(suspects) - len(others))
    unfetched: list[Unfetched] = []
    to_read = {*suspects, *others}
    for received in [one for one in label_files if one in to_read]:
        stores.radiographs.begin_attempts([received])
        try:
            taken = _take_label_file(stores, settings, received, erased)
        finally:  # a kill alone leaves it written down
            with suppress(DatabaseUnavailable):
                stores.radiographs.end_attempts([received])
        if isinstance(taken, Unfetched):
            unfetched.append(taken)
        else:
            counts.update(taken)
    return counts, unfetched


def _take_label_file(
    stores: Stores, settings: Settings, received: ReceivedObject, erased: Erased
) -> dict[str, int] | Unfetched:
    try:
        decode_limits(settings).require_bytes(received.size_bytes)
        claims = claims_of_label_file(
            received.key, stores.bucket.read(received.key), site_secret=settings.site_secret_bytes
        )
        kept = [claim for claim in claims if not erased.has_label(claim)]
        if len(kept) < len(claims):
            log.warning("%d labels of a file speak of what was erased, and are left out", len(claims) - len(kept))
        told = stores.radiographs.record_labels(received, kept)
    except ObjectNotFound:
        return {"vanished": 1}
    except ObjectWithheld as fault:
        return Unfetched(received=received, fault=fault)
    except Exception as fault:
        refusal = _refusal(received, fault)
        stores.radiographs.record_quarantined(received, refusal.code, refusal.sentence)
        return {"quarantined": 1}
    return {"labels": 1, "kept_apart": told["kept_apart"]}


def _take_images(
    stores: Stores, settings: Settings, images: list[ReceivedObject], threads: int, erased: Erased
) -> tuple[Counter, list[Unfetched]]:
    """Look at each image and record what became of it. Returns: counts, and what has no outcome yet."""
    inspect = partial(
        _inspect, stores.bucket, limits=decode_limits(settings), secret=settings.site_secret_bytes, erased=erased
    )
    suspects, others = _begun_before(stores, images)
    counts: Counter = Counter(quarantined=len(images) - len(suspects) - len(others))
    unfetched: list[Unfetched] = []
    done, last_line = 0, time.monotonic()
    with closing(_inspected(stores, inspect, suspects, others, threads)) as parts:
        for part in parts:
            counts.update(_record(stores, part))
            unfetched += [finding for finding in part if isinstance(finding, Unfetched)]
            done += len(part)
            if time.monotonic() - last_line > _SECONDS_BETWEEN_LINES:
                log.info("%d of %d images looked at", done, len(images))
                last_line = time.monotonic()
    return counts, unfetched


def _inspected(
    stores: Stores,
    inspect: Callable[[ReceivedObject], Finding],
    suspects: list[ReceivedObject],
    others: list[ReceivedObject],
    threads: int,
) -> Iterator[list[Finding]]:
    """What became of each object, in parts, each of which is to be recorded before the next one is asked for.

    A part is written down before it is looked at, and struck off when it is recorded: an object that kills this
    process, by its size or by a decoder's fault, leaves a trace. `suspects`, which a process that was killed had begun
    with, are looked at one by one.
    """
    parts = chain(([one] for one in suspects), _chunks(others, _ROWS_PER_TRANSACTION))
    looking: deque[tuple[list[ReceivedObject], list[Future[Finding]]]] = deque()

    def settle_first() -> Iterator[list[Finding]]:
        part, futures = looking[0]
        yield [future.result() for future in futures]
        stores.radiographs.end_attempts(part)
        looking.popleft()

    with ThreadPoolExecutor(threads, thread_name_prefix="ingest") as pool:
        try:
            for number, part in enumerate(parts):
                stores.radiographs.begin_attempts(part)
                looking.append((part, [pool.submit(inspect, one) for one in part]))
                while len(looking) > (_PARTS_AHEAD if number >= len(suspects) else 0):
                    yield from settle_first()
            while looking:
                yield from settle_first()
        finally:  # where a server went away nobody fetches the rest for nothing, and no object is to blame
            for _, futures in looking:
                for future in futures:
                    future.cancel()
            if looking:
                with suppress(DatabaseUnavailable):
                    stores.radiographs.end_attempts([one for part, _ in looking for one in part])


def _inspect(
    bucket: Bucket, received: ReceivedObject, *, limits: DecodeLimits, secret: bytes, erased: Erased
) -> Finding:
    """Fetch, check, de-identify, fingerprint and store one object. Writes bytes, and no row."""
    try:
        limits.require_bytes(received.size_bytes)
        try:
            data = bucket.read(received.key)
        except ObjectWithheld as fault:
            return Unfetched(received=received, fault=fault)
        if erased.has_file(data):
            return Refusal(received=received, code="erased", sentence=_ERASED)
        facts = read_facts(data, site_secret=secret, limits=limits)
        object_key = keys.radiograph_key(facts.sha256, facts.media_type)
        stored = deidentify(data, facts.media_type, site_secret=secret)
        stored_sha256 = facts.sha256 if stored == data else hashlib.sha256(stored).hexdigest()
        bucket.write(object_key, stored, facts.media_type)
        claims = tuple(claims_of_key(received.key, site_secret=secret))
    except ObjectNotFound:
        return Vanished(received=received)
    except Exception as fault:
        return _refusal(received, fault)
    return Arrival(received=received, facts=facts, object_key=object_key, stored_sha256=stored_sha256, claims=claims)


def _refusal(received: ReceivedObject, fault: Exception) -> Refusal:
    """What is wrong with one object, as its outcome: it holds up no other. Raises what is not the object's fault."""
    if isinstance(fault, MemoryError):
        log.error("this machine has no memory left for an object of %d bytes", received.size_bytes)
        fault = NoMemoryLeft()
    if isinstance(fault, UnusableObject):
        return Refusal(received=received, code=fault.code, sentence=str(fault))
    if isinstance(fault, FractureError) and not isinstance(fault, RowRefused):
        raise fault
    log.error("an object of %d bytes could not be read", received.size_bytes, exc_info=fault)
    return Refusal(
        received=received,
        code="internal_error",
        sentence=f"Reading it ended in {type(fault).__name__}; the trace is in the ingest's log.",
    )


def _record(stores: Stores, findings: list[Finding]) -> Counter:
    counts: Counter = Counter()
    for finding in findings:
        if isinstance(finding, Refusal):
            stores.radiographs.record_quarantined(finding.received, finding.code, finding.sentence)
            counts["quarantined"] += 1
        elif isinstance(finding, Vanished):
            counts["vanished"] += 1
    arrivals = [finding for finding in findings if isinstance(finding, Arrival)]
    try:
        if arrivals:
            counts.update(stores.radiographs.record_radiographs(arrivals, near_duplicate_bits=NEAR_DUPLICATE_BITS))
    except RowRefused as fault:
        for arrival in arrivals:  # each by itself: one that Postgres refuses takes no other with it
            counts.update(_record(stores, [arrival if len(arrivals) > 1 else _refusal(arrival.received, fault)]))
    return counts


def _chunks(items: Iterable, size: int) -> Iterator[list]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
