"""Applies 0007_body_parts.sql."""

from fracture_ml.stores.database import apply_migration

revision = "0007_body_parts"
down_revision = "0006_judged_again"


def upgrade() -> None:
    apply_migration(revision)
