"""Applies 0004_retried_objects.sql."""

from fracture_ml.stores.database import apply_migration

revision = "0004_retried_objects"
down_revision = "0003_unlisted_studies"


def upgrade() -> None:
    apply_migration(revision)
