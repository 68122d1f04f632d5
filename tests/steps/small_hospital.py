"""A hospital of three patients, small enough to say what must go and what must stay."""

from sqlalchemy import text

from fracture_ml.steps import scoring_run
from fracture_ml.steps.ingest import ingest_inbox
from fracture_ml.steps.pictures import read_picture
from fracture_ml.steps.pixels import open_pixels
from fracture_ml.steps.score import score_batch
from fracture_ml.steps.worklist import rank_worklist
from fracture_ml.stores.database import transaction
from tests.steps.drawn_backlog import SIZE_PX, drawn_png, promote_drawn
from tests.stores.stored_rows import register

WHO = {"actor": "dpo", "reason": "ticket 12"}
HEADER = "object_key,patient_key,study_key,label,labelled_by,labelled_at\n"
# Two studies of the first patient, one each of the others: name of the file -> patient, study, number of the drawing.
FILES = {
    "Doe/1.png": ("H|Doe-77", "S1", 1),
    "Doe/2.png": ("H|Doe-77", "S1", 2),
    "Doe/later.png": ("H|Doe-77", "S2", 3),
    "Poe/1.png": ("H|Poe-78", "S3", 4),
    "Poe/2.png": ("H|Poe-78", "S3", 5),
    "Roe/1.png": ("H|Roe-79", "S4", 6),
}


def manifest(extra: str = "") -> bytes:
    rows = [
        f"{name},{patient},{study},{number % 2},Dr. A,2026-03-01\n" for name, (patient, study, number) in FILES.items()
    ]
    return (HEADER + "".join(rows) + extra).encode()


def open_hospital(stores, settings, bucket) -> int:
    """Images, labels, a champion, scores, highlights, a final read. Returns: the champion's version."""
    for name, (_, _, number) in FILES.items():
        bucket.write(f"inbox/{name}", drawn_png(number))
    bucket.write("inbox/Doe/again.png", drawn_png(1))  # a copy
    bucket.write("inbox/Doe/broken.png", drawn_png(7)[:-40])
    bucket.write("inbox/manifest.csv", manifest("Doe/broken.png,H|Doe-77,S2,1,Dr. A,2026-03-01\n"))
    counts = ingest_inbox(stores, settings)
    assert [counts[name] for name in ("radiograph", "copy", "labels", "quarantined")] == [6, 1, 1, 1]
    champion = promote_drawn(stores, flagged_from=0.01)  # every image has its highlight
    members = stores.snapshots.members_of(champion.snapshot_id)
    register(stores, champion.snapshot_id, scores=[(member.radiograph_id, member.label, 0.25) for member in members])
    open_pixels(stores, settings, snapshot_id=champion.snapshot_id, size_px=SIZE_PX)
    score_all(stores, settings)
    item = stores.worklist.item_of(study_of(stores, "Doe/1.png"))
    stores.worklist.act(
        item["study_key"], "report", actor="r", row_version=item["row_version"], details={"value": "positive"}
    )
    return champion.version


def score_all(stores, settings) -> dict[str, int]:
    plan = scoring_run.plan_scoring(stores)
    for batch in scoring_run.cut_batches(stores, batch_size=100, **plan):
        score_batch(stores, settings, **batch)
    outcomes = scoring_run.reconcile(stores, **plan)
    rank_worklist(stores, settings)
    return outcomes


def sql(stores, statement: str, **parameters):
    with transaction(stores.engine) as connection:
        return connection.execute(text(statement), parameters).all()


def radiograph_of(stores, name: str):
    (row,) = sql(
        stores,
        "SELECT r.* FROM fracture.received_object o JOIN fracture.radiograph r USING (radiograph_id) "
        "WHERE o.object_key = :key",
        key=f"inbox/{name}",
    )
    return row


def study_of(stores, name: str) -> str:
    return radiograph_of(stores, name).study_key


def all_rows(stores) -> set[tuple[str, str]]:
    """(table, row as text) of everything that is kept."""
    tables = sql(stores, "SELECT tablename FROM pg_tables WHERE schemaname = 'fracture'")
    return {
        (table, row.line)
        for (table,) in tables
        for row in sql(stores, f"SELECT CAST(t.* AS text) AS line FROM fracture.{table} t")
    }


def pictures_of(stores, version: int) -> dict[int, tuple[bytes, bytes]]:
    rows = sql(stores, "SELECT radiograph_id, heat_map_key, overlay_key FROM fracture.prediction WHERE probability > 0")
    return {
        row.radiograph_id: tuple(
            read_picture(stores.bucket, key, row.radiograph_id) for key in (row.heat_map_key, row.overlay_key)
        )
        for row in rows
    }
