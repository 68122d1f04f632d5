"""Applies 0002_snapshot_boxes.sql."""

from fracture_ml.stores.database import apply_migration

revision = "0002_snapshot_boxes"
down_revision = "0001_initial"


def upgrade() -> None:
    apply_migration(revision)
