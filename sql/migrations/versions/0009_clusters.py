"""Applies 0009_clusters.sql."""

from fracture_ml.stores.database import apply_migration

revision = "0009_clusters"
down_revision = "0008_told_labels"


def upgrade() -> None:
    apply_migration(revision)
