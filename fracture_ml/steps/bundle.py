"""Opens the bundle of a registered version, or refuses it and says so to a person."""

from contextlib import suppress

from fracture_ml.core.errors import BundleMismatch, ObjectNotFound, StorageUnavailable
from fracture_ml.core.records import ModelVersion
from fracture_ml.evaluation.calibration import Calibration
from fracture_ml.model.bundle import Bundle
from fracture_ml.steps.champion import bundle_is_whole, raise_bundle_alert, settle_unread_alert
from fracture_ml.stores import Stores


def open_bundle(stores: Stores, registered: ModelVersion) -> Bundle:
    """The registered bundle; where it is not what was registered, or cannot be read, an alert is opened before it is
    refused.

    Raises: BundleMismatch, StorageUnavailable.
    """
    try:
        return _read_bundle(stores, registered)
    except (BundleMismatch, ObjectNotFound) as fault:
        sentence = f"The bundle of version {registered.version} is refused, and nothing is scored with it. {fault}"
        raise_bundle_alert(stores, registered, sentence, unread=bundle_is_whole(stores, registered))
        raise BundleMismatch(sentence) from None


def try_again(stores: Stores, version: int) -> None:
    """Read the bundle of a champion that another version stands in for: where that works now, the next plan uses it."""
    with suppress(BundleMismatch, ObjectNotFound, StorageUnavailable):  # its alert stays open
        _read_bundle(stores, stores.registry.version_of(version))


def _read_bundle(stores: Stores, registered: ModelVersion) -> Bundle:
    data = stores.bucket.read(registered.bundle_key)
    bundle = Bundle.from_bytes(data, expected_sha256=registered.bundle_sha256)
    try:
        Calibration.from_json(bundle.calibration)
    except (KeyError, TypeError, ValueError):
        raise BundleMismatch("This code does not know the bundle's calibration: use the code that wrote it.") from None
    settle_unread_alert(stores, registered)
    return bundle
