"""Fracture detection in radiographs: what the DAGs do. Never imports airflow."""

__version__ = "0.1.0"
