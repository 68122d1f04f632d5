"""Opens what a step needs, from the settings."""

import hashlib
from functools import cache
from pathlib import Path

import fracture_ml
from fracture_ml.steps.settings import Settings, load_settings
from fracture_ml.stores import Stores, open_stores
from fracture_ml.stores.bucket import Bucket, open_bucket

# The rooms that decide what a model's numbers are.
_DECIDING_ROOMS = ("core", "imaging", "data", "model", "training", "evaluation", "scoring")


def open_configured_bucket(settings: Settings) -> Bucket:
    """The bucket that the settings name. Raises: StorageUnavailable."""
    return open_bucket(
        name=settings.s3_bucket,
        endpoint_url=settings.s3_endpoint_url,
        region=settings.s3_region,
        access_key=settings.s3_access_key.get_secret_value() if settings.s3_access_key else None,
        secret_key=settings.s3_secret_key.get_secret_value() if settings.s3_secret_key else None,
    )


def open_context(settings: Settings | None = None) -> Stores:
    """The stores that the settings name. Raises: InvalidSettings, SchemaMismatch, DatabaseUnavailable."""
    settings = settings or load_settings()
    return open_stores(database_url=settings.database_url.get_secret_value(), bucket=open_configured_bucket(settings))


@cache
def code_version() -> str:
    """Version and a hash of the source of the rooms that decide a model's numbers: the same with and without git."""
    digest = hashlib.sha256()
    package = Path(fracture_ml.__file__).parent
    for room in _DECIDING_ROOMS:
        for path in sorted((package / room).rglob("*.py")):
            digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return f"{fracture_ml.__version__}+{digest.hexdigest()[:12]}"
