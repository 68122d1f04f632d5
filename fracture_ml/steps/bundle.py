"""Opens the bundle of a registered version, or refuses it and says so to a person."""

from fracture_ml.core.errors import BundleMismatch, ObjectNotFound
from fracture_ml.core.records import ModelVersion
from fracture_ml.model.bundle import Bundle
from fracture_ml.steps.champion import raise_bundle_alert
from fracture_ml.stores import Stores


def open_bundle(stores: Stores, registered: ModelVersion) -> Bundle:
    """The registered bundle; where it is not what was registered, an alert is opened before it is refused.

    Raises: BundleMismatch, StorageUnavailable.
    """
    try:
        data = stores.bucket.read(registered.bundle_key)
        return Bundle.from_bytes(data, expected_sha256=registered.bundle_sha256)
    except (BundleMismatch, ObjectNotFound) as fault:
        sentence = f"The bundle of version {registered.version} is refused, and nothing is scored with it. {fault}"
        raise_bundle_alert(stores, registered, sentence)
        raise BundleMismatch(sentence) from None
