"""Applies 0005_ranking_rules.sql."""

from fracture_ml.stores.database import apply_migration

revision = "0005_ranking_rules"
down_revision = "0004_retried_objects"


def upgrade() -> None:
    apply_migration(revision)
