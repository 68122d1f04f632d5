"""Applies 0010_watched.sql."""

from fracture_ml.stores.database import apply_migration

revision = "0010_watched"
down_revision = "0009_clusters"


def upgrade() -> None:
    apply_migration(revision)
