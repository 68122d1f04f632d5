"""Applies 0008_told_labels.sql."""

from fracture_ml.stores.database import apply_migration

revision = "0008_told_labels"
down_revision = "0007_body_parts"


def upgrade() -> None:
    apply_migration(revision)
