"""How an opinion becomes a row: whoever gave it, in the transaction of what brought it."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection

from fracture_ml.core.recipe import hash_of_json
from fracture_ml.core.records import LabelClaim
from fracture_ml.stores.database import query, rows_of, to_jsonb

_ROWS_PER_STATEMENT = 10_000


def add_labels(
    connection: Connection, claims: Sequence[tuple[LabelClaim, int | None]], *, told_from: datetime | None = None
) -> int:
    """Add opinions, each with the received object that held it (None: a final read).

    Args:    told_from: since when they hold; None: now.
    Returns: how many are new; the same opinion twice is one row.
    """
    told_from = told_from or rows_of(connection, "now")[0]["now"]
    rows = []
    for claim, received_object_id in claims:
        row = vars(claim) | {
            "labelled_at": claim.labelled_at.isoformat() if claim.labelled_at else None,
            "boxes": [vars(box) for box in claim.boxes],
        }
        rows.append(row | {"content_hash": hash_of_json(row), "received_object_id": received_object_id})
    new = 0
    for start in range(0, len(rows), _ROWS_PER_STATEMENT):
        part = to_jsonb(rows[start : start + _ROWS_PER_STATEMENT])
        new += len(rows_of(connection, "label_insert", rows=part))
        connection.execute(query("label_tell"), {"rows": part, "told_from": told_from})
    return new
