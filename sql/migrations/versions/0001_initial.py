"""Applies 0001_initial.sql."""

from fracture_ml.stores.database import apply_migration

revision = "0001_initial"
down_revision = None


def upgrade() -> None:
    apply_migration(revision)
