"""Applies 0011_erasure.sql."""

from fracture_ml.stores.database import apply_migration

revision = "0011_erasure"
down_revision = "0010_watched"


def upgrade() -> None:
    apply_migration(revision)
