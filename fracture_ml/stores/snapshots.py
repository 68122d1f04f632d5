"""Frozen data sets, and each look at their locked splits."""

from collections import Counter
from datetime import datetime
from typing import Any

from sqlalchemy import Engine

from fracture_ml.core.errors import Conflict
from fracture_ml.core.recipe import SplitPlan
from fracture_ml.core.records import SnapshotDraft, SnapshotMember, Split, Tied
from fracture_ml.stores.database import query, rows_of, to_jsonb, transaction
from fracture_ml.stores.radiographs import INGEST_LOCK, boxes_of


class SnapshotStore:
    """A snapshot is written whole, once, and never changes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def find(self, snapshot_id: str) -> dict[str, Any] | None:
        """snapshot_id, plan, counts, as_of, created_at."""
        with transaction(self._engine) as connection:
            rows = rows_of(connection, "snapshot_find", snapshot_id=snapshot_id)
        return rows[0] if rows else None

    def save(self, draft: SnapshotDraft, plan: SplitPlan, *, as_of: datetime) -> None:
        """Freeze a draft; from now on the groups of its members stay what they are.

        Raises: Conflict: a member's group changed since the draft was drawn; nothing is stored.
        """
        rows = [
            {
                "radiograph_id": member.radiograph_id,
                "group_key": member.group_key,
                "label": member.label,
                "split": member.split,
                "fold": member.fold,
                "boxes": member.boxes,
            }
            for member in draft.members
        ]
        with transaction(self._engine) as connection:
            connection.execute(query("lock"), {"purpose": INGEST_LOCK})
            head = {"plan": to_jsonb(plan), "counts": to_jsonb(_counts_of(draft)), "as_of": as_of}
            if not rows_of(connection, "snapshot_insert", snapshot_id=draft.id, **head):
                return
            frozen = rows_of(connection, "snapshot_insert_members", snapshot_id=draft.id, rows=to_jsonb(rows))
            if len(frozen) != len(rows):
                raise Conflict("New labels changed the groups while the snapshot was drawn: freeze it again.")

    def members_of(self, snapshot_id: str) -> list[SnapshotMember]:
        """The members, sorted by sha256; none for an unknown snapshot."""
        with transaction(self._engine) as connection:
            rows = rows_of(connection, "snapshot_members", snapshot_id=snapshot_id)
        return [
            SnapshotMember(**{**row, "split": Split(row["split"]), "boxes": boxes_of(row["boxes"])}) for row in rows
        ]

    def ties_of(self, snapshot_id: str) -> list[Tied]:
        """The members, each with its patient and study as is known now.

        Without near-duplicates, which the freeze looked at: a later picture may lie between two that are none.
        """
        with transaction(self._engine) as connection:
            return [Tied(**row) for row in rows_of(connection, "snapshot_ties", snapshot_id=snapshot_id)]

    def label_sources_of(self, snapshot_id: str) -> list[dict[str, Any]]:
        """source, meaning, positive and negative of the labels that the members were frozen with, the most first."""
        with transaction(self._engine) as connection:
            return rows_of(connection, "snapshot_label_sources", snapshot_id=snapshot_id)

    def count_look(self, snapshot_id: str, split: str, purpose: str) -> None:
        """Somebody looks at a locked split. Each call counts: a look that was repeated was a look."""
        with transaction(self._engine) as connection:
            look = {"snapshot_id": snapshot_id, "split": split, "purpose": purpose}
            connection.execute(query("split_look_insert"), look)

    def looks_of(self, snapshot_id: str) -> int:
        """How often its test split was looked at, or that of another snapshot which shares radiographs with it."""
        with transaction(self._engine) as connection:
            return rows_of(connection, "split_looks", snapshot_id=snapshot_id)[0]["looks"]


def _counts_of(draft: SnapshotDraft) -> dict[str, Any]:
    """{"radiographs": n, "groups": n, "splits": {"train": {"positive": n, "negative": n}, ...}, "left_out": {...},
    "positive_means": "fracture" or "abnormal"}."""
    by_side = Counter((member.split, member.label) for member in draft.members)
    return {
        "radiographs": len(draft.members),
        "groups": len({member.group_key for member in draft.members}),
        "splits": {
            str(split): {"positive": by_side[split, 1], "negative": by_side[split, 0]}
            for split in Split
            if by_side[split, 0] + by_side[split, 1]
        },
        "left_out": draft.left_out,
        "positive_means": draft.positive_means,
    }
