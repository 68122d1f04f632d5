"""How long Postgres takes to plan an hour's run when a million radiographs have been scored.

Rows are written straight into the tables. `planning_ms`: the slowest of the queries by which a run begins, as a client
sees it, best and median of the repetitions; what is due are the newest radiographs.

    python -m benchmarks.planning [--json FILE] [--scored 1000000] [--due 500] [--rounds 20] [--explain]
"""

import argparse
import statistics
import time
from collections.abc import Callable

from sqlalchemy import text

from benchmarks.radiographs import jpegs, promote, random_bundle
from benchmarks.report import parser_of
from benchmarks.servers import Servers, report_with_servers
from fracture_ml.stores import Stores
from fracture_ml.stores.database import query, transaction
from fracture_ml.stores.predictions import BLOCK_SIZE

_RADIOGRAPHS = """
INSERT INTO fracture.radiograph (sha256, object_key, media_type, size_bytes, width_px, height_px, bits_stored,
                                 photometric, perceptual_hash, study_key, group_key)
SELECT encode(sha256(n::text::bytea), 'hex'), 'radiographs/' || n, 'image/jpeg', 20000, 373, 454, 8, 'MONOCHROME2', n,
       'study ' || n, 'group ' || n
FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS n
"""
_PREDICTIONS = """
INSERT INTO fracture.prediction (version, radiograph_id, probability, calibrated, operating_point)
SELECT :version, radiograph_id, 0.1, 0.1, 'below' FROM fracture.radiograph
"""


def fill(stores: Stores, *, version: int, scored: int, due: int) -> None:
    """`scored` radiographs with an outcome of the version, whose run was reconciled, and `due` newer ones without."""
    with transaction(stores.engine) as connection:
        connection.execute(text(_RADIOGRAPHS), {"first": 1, "last": scored})
        connection.execute(text(_PREDICTIONS), {"version": version})
    stores.predictions.reconcile(version)
    with transaction(stores.engine) as connection:
        connection.execute(text(_RADIOGRAPHS), {"first": scored + 1, "last": scored + due})
    with stores.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))  # as autovacuum does


def milliseconds(run: Callable[[], list], rounds: int) -> dict[str, float]:
    """Best and median of the repetitions."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        run()
        times.append((time.perf_counter() - started) * 1e3)
    return {"best": round(min(times), 2), "median": round(statistics.median(times), 2)}


def explained(stores: Stores, version: int, newest: int, complete_up_to: int) -> list[str]:
    """Postgres's own account of the query for blocks."""
    part = {"version": version, "block_size": BLOCK_SIZE, "complete_up_to": complete_up_to, "first": 1, "last": newest}
    with transaction(stores.engine) as connection:
        statement = text(f"EXPLAIN (ANALYZE, BUFFERS OFF) {query('prediction_due_blocks').text}")
        return [row[0] for row in connection.execute(statement, part)]


def measure(options: argparse.Namespace, servers: Servers) -> dict:
    """The queries' times, as one JSON object."""
    stores = servers.create("planning")
    version = promote(stores, random_bundle(jpegs(8), image_size_px=32), "planning").version
    fill(stores, version=version, scored=options.scored, due=options.due)
    newest = stores.radiographs.newest_id()
    runs = {
        "due_ranges": lambda: stores.predictions.due_ranges(version, batch_size=2000, through=newest),
        "due_blocks": lambda: stores.predictions.due_blocks(version, first=1, last=newest),
    }
    times = {name: milliseconds(run, options.rounds) for name, run in runs.items()}
    result = {"scored": options.scored, "due": options.due, "rounds": options.rounds, "queries_ms": times}
    result["planning_ms"] = max(one["median"] for one in times.values())
    if options.explain:
        result["explain"] = explained(stores, version, newest, options.scored)
    return result


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--scored", type=int, default=1_000_000)
    parser.add_argument("--due", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--explain", action="store_true")
    report_with_servers(parser, measure)


if __name__ == "__main__":
    main()
