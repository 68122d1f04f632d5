"""The embedded default: Postgres, S3 and Airflow on this machine, one command."""

from fracture_ml.stack.lifecycle import Access, data_folder, down, status, up

__all__ = ["Access", "data_folder", "down", "status", "up"]
