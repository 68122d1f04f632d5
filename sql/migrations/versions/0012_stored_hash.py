"""Applies 0012_stored_hash.sql."""

from fracture_ml.stores.database import apply_migration

revision = "0012_stored_hash"
down_revision = "0011_erasure"


def upgrade() -> None:
    apply_migration(revision)
