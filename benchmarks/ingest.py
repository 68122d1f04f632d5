"""How much of the speed of fetching and decoding alone the ingest keeps, and what a long inbox costs.

over_fetch_and_decode    objects per second of `ingest_inbox` (listed, fetched, checked, de-identified,
                         fingerprinted, stored, recorded) over fetching and decoding the same objects alone, with
                         as many threads; the two take turns, and the median of the rounds is quoted
with_large_originals_over_fetch_and_decode   the same with 12 % of originals of 2304 x 2880 among them
known_keys               a listing of this many keys that are known already, and 100 new ones: how many objects
                         were fetched, and how long the whole ingest took

python -m benchmarks.ingest [--json FILE] [--data FOLDER] [--images 512] [--rounds 5] [--keys 100000]
"""

import argparse
import statistics
import struct
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from sqlalchemy import text

from benchmarks.radiographs import jpegs, mixed_jpegs
from benchmarks.report import parser_of
from benchmarks.servers import Servers, report_with_servers
from fracture_ml.core.records import MediaType
from fracture_ml.imaging.decode import decode
from fracture_ml.steps.ingest import ingest_inbox
from fracture_ml.stores import Stores
from fracture_ml.stores.bucket import Bucket
from fracture_ml.stores.database import to_jsonb, transaction

_THREADS = 4  # as `fracture ingest`
_NEW = 100
_WRITING_THREADS = 16
_ROWS_AT_ONCE = 5000


def unlike(content: bytes, name: str) -> bytes:
    """The same JPEG with a comment that makes its bytes, and so its radiograph, another."""
    comment = name.encode()
    return content[:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + content[2:]


def write_objects(bucket: Bucket, objects: Sequence[tuple[str, bytes]]) -> None:
    """Put (key, bytes) into the bucket."""
    with ThreadPoolExecutor(_WRITING_THREADS) as pool:
        list(pool.map(lambda one: bucket.write(one[0], one[1], MediaType.JPEG), objects))


def fetch_and_decode(bucket: Bucket, keys: Sequence[str]) -> float:
    """Objects per second of nothing else."""
    started = time.perf_counter()
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(lambda key: decode(bucket.read(key)).shape, keys))
    return len(keys) / (time.perf_counter() - started)


def speeds(servers: Servers, name: str, files: Sequence[bytes], rounds: int) -> list[tuple[float, float]]:
    """(ingest, fetch and decode alone), objects per second, of each round; the first warms up and is left out."""
    stores, settings = servers.create(name), servers.settings(name)
    pairs = []
    for number in range(rounds + 1):
        objects = [(f"inbox/{number}/{n}.jpg", unlike(one, f"{number}/{n}")) for n, one in enumerate(files)]
        write_objects(stores.bucket, objects)
        alone = fetch_and_decode(stores.bucket, [key for key, _ in objects])
        started = time.perf_counter()
        counts = ingest_inbox(stores, settings, threads=_THREADS)
        elapsed = time.perf_counter() - started
        if counts["radiograph"] != len(files):
            raise SystemExit(f"{counts}: nothing was measured")
        pairs.append((len(files) / elapsed, alone))
    return pairs[1:]


def long_inbox(servers: Servers, files: Sequence[bytes], keys: int) -> dict:
    """An ingest of 100 new objects beside `keys` that have their outcome: what it fetches, and how long it takes."""
    stores, settings = servers.create("long"), servers.settings("long")
    write_objects(stores.bucket, [(f"inbox/known/{number:06d}.txt", b"known") for number in range(keys)])
    _record_as_known(stores)
    write_objects(
        stores.bucket, [(f"inbox/new/{n}.jpg", unlike(files[n % len(files)], f"new {n}")) for n in range(_NEW)]
    )
    fetched: list[str] = []
    counted = replace(stores, bucket=_Counting(stores.bucket, fetched.append))
    started = time.perf_counter()
    counts = ingest_inbox(counted, settings, threads=_THREADS)
    return {
        "known_keys": keys,
        "new_keys": counts["new"],
        "fetched_objects": len(fetched),
        "fetches_only_the_new": counts["new"] == len(fetched) == _NEW,
        "long_inbox_s": time.perf_counter() - started,
    }


class _Counting(Bucket):
    """A bucket that tells of every object that is read."""

    def __init__(self, bucket: Bucket, on_read: Callable[[str], None]) -> None:
        self.__dict__.update(bucket.__dict__)
        self._on_read = on_read

    def read(self, key: str) -> bytes:
        self._on_read(key)
        return super().read(key)


def _record_as_known(stores: Stores) -> None:
    """Every object of the inbox has been quarantined before."""
    listed = [vars(found) for found in stores.bucket.list("inbox/")]
    statement = text(
        "INSERT INTO fracture.received_object (object_key, etag, size_bytes, outcome, code, sentence) "
        "SELECT key, etag, size_bytes, 'quarantined', 'not_an_image', 'Known before.' "
        "FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x (key text, etag text, size_bytes bigint)"
    )
    for start in range(0, len(listed), _ROWS_AT_ONCE):
        with transaction(stores.engine) as connection:
            connection.execute(statement, {"rows": to_jsonb(listed[start : start + _ROWS_AT_ONCE])})


def measure(options: argparse.Namespace, servers: Servers) -> dict:
    """Both parts, as one JSON object."""
    files = jpegs(options.images, data=options.data)
    pairs = speeds(servers, "speed", files, options.rounds)
    ratios = [ingest / alone for ingest, alone in pairs]
    mixed = speeds(servers, "mixed", mixed_jpegs(options.images, data=options.data), options.rounds)
    ratios_mixed = [ingest / alone for ingest, alone in mixed]
    return {
        "images": options.images,
        "rounds": options.rounds,
        "threads": _THREADS,
        "data": "real" if options.data else "drawn",
        "ingest_objects_per_s": statistics.median(ingest for ingest, _ in pairs),
        "fetch_and_decode_objects_per_s": statistics.median(alone for _, alone in pairs),
        "over_fetch_and_decode": statistics.median(ratios),
        "over_fetch_and_decode_range": [min(ratios), max(ratios)],
        "with_large_originals_over_fetch_and_decode": statistics.median(ratios_mixed),
        "with_large_originals_over_fetch_and_decode_range": [min(ratios_mixed), max(ratios_mixed)],
    } | long_inbox(servers, files, options.keys)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--data", type=Path, help="a folder of FracAtlas; without it the radiographs are drawn")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keys", type=int, default=100_000)
    report_with_servers(parser, measure)


if __name__ == "__main__":
    main()
