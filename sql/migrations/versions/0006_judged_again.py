"""Applies 0006_judged_again.sql."""

from fracture_ml.stores.database import apply_migration

revision = "0006_judged_again"
down_revision = "0005_ranking_rules"


def upgrade() -> None:
    apply_migration(revision)
