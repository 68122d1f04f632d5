"""Applies 0013_retried_predictions.sql."""

from fracture_ml.stores.database import apply_migration

revision = "0013_retried_predictions"
down_revision = "0011_erasure"


def upgrade() -> None:
    apply_migration(revision)
