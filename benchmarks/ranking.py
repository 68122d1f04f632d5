"""How long Postgres takes to find which studies to rank when a million are on the worklist.

Rows are written straight into the tables: a study per radiograph, all listed with the champion's scores, most of them
reported long ago; the newest radiographs are on no list yet. Best and median of the repetitions, as a client sees them.
`a new champion`: it has scored the newest 2,000 of all, and what is open shows the one before. `finished` is the page's
list of what was reported last.

    python -m benchmarks.ranking [--json FILE] [--listed 1000000] [--open 20000] [--new 500] [--rounds 10]
"""

import argparse

from sqlalchemy import text

from benchmarks.planning import fill, milliseconds
from benchmarks.radiographs import jpegs, promote, random_bundle
from benchmarks.report import parser_of
from benchmarks.servers import Servers, report_with_servers
from fracture_ml.stores import Stores
from fracture_ml.stores.database import transaction

_WORKLIST = """
INSERT INTO fracture.worklist (study_key, ordered_priority, ai_priority, score, radiograph_id, version, body_part,
                               images, images_unscored, arrived_at, due_at, status, updated_at)
SELECT study_key, 'ROUTINE', 'below', 0.1, radiograph_id, :version, 'unknown', 1, 0, received_at, received_at,
       CASE WHEN radiograph_id <= :listed - :open THEN 'reported' ELSE 'new' END,
       now() - make_interval(secs => :listed - radiograph_id)
FROM fracture.radiograph
WHERE radiograph_id <= :listed
"""

_NEW_CHAMPION_SCORED = 2000
_SCORED_ANEW = """
INSERT INTO fracture.prediction (version, radiograph_id, probability, calibrated, operating_point)
SELECT :version, radiograph_id, 0.1, 0.1, 'below' FROM fracture.radiograph ORDER BY radiograph_id DESC LIMIT :scored
"""


def list_studies(stores: Stores, *, version: int, listed: int, open_: int) -> None:
    """The first `listed` radiographs' studies, of which the newest `open_` are open, and the others reported."""
    with transaction(stores.engine) as connection:
        connection.execute(text(_WORKLIST), {"version": version, "listed": listed, "open": open_})
    with stores.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))  # as autovacuum does


def measure(options: argparse.Namespace, servers: Servers) -> dict:
    """The queries' times, as one JSON object."""
    stores = servers.create("ranking")
    version = promote(stores, random_bundle(jpegs(8), image_size_px=32), "ranking").version
    fill(stores, version=version, scored=options.listed, due=options.new)
    list_studies(stores, version=version, listed=options.listed, open_=options.open)
    new_champion = promote(stores, random_bundle(jpegs(8), image_size_px=32), "a new champion").version
    with transaction(stores.engine) as connection:
        connection.execute(text(_SCORED_ANEW), {"version": new_champion, "scored": _NEW_CHAMPION_SCORED})
    runs = {
        "studies_to_rank": lambda: stores.worklist.studies_to_rank(version),
        "studies_to_rank, labelled ones kept off": lambda: stores.worklist.studies_to_rank(
            version, list_labelled=False
        ),
        "studies_to_rank, a new champion": lambda: stores.worklist.studies_to_rank(new_champion),
        "finished": lambda: stores.worklist.finished_items(limit=500),
    }
    result = {
        "listed": options.listed,
        "open": options.open,
        "new": options.new,
        "rounds": options.rounds,
        "found": len(stores.worklist.studies_to_rank(version)),
        "queries_ms": {name: milliseconds(run, options.rounds) for name, run in runs.items()},
    }
    return result


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--listed", type=int, default=1_000_000)
    parser.add_argument("--open", type=int, default=20_000)
    parser.add_argument("--new", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=10)
    report_with_servers(parser, measure)


if __name__ == "__main__":
    main()
