"""Applies 0013_retried_predictions.sql."""

from fracture_ml.stores.database import apply_migration

revision = "0013_retried_predictions"
down_revision = "0012_stored_hash"


def upgrade() -> None:
    apply_migration(revision)
