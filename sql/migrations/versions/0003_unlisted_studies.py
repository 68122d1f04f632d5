"""Applies 0003_unlisted_studies.sql."""

from fracture_ml.stores.database import apply_migration

revision = "0003_unlisted_studies"
down_revision = "0002_snapshot_boxes"


def upgrade() -> None:
    apply_migration(revision)
