"""Migrates Airflow's own database and makes the pools, in one process. Run by the stack and by the compose file.

    python plugins/fracture_setup_airflow.py

It can be repeated. A pool that exists is left as it is: its slots may have been changed in the UI.
"""

# A task in a pool that does not exist never runs. One training at a time owns the GPU; scoring has a lane of its own.
POOLS = {
    "gpu": (1, "Tuning and training: one at a time per GPU"),
    "scoring": (2, "Scoring batches, two at a time: while one starts or ends, the other computes"),
}


def main() -> None:
    """Bring Airflow's database up to date."""
    from airflow.models.pool import Pool
    from airflow.utils.db import upgradedb
    from airflow.utils.session import create_session
    from sqlalchemy import select

    upgradedb()
    with create_session() as session:
        present = set(session.scalars(select(Pool.pool)))
        for name, (slots, description) in POOLS.items():
            if name not in present:
                session.add(Pool(pool=name, slots=slots, description=description, include_deferred=False))


if __name__ == "__main__":
    main()
