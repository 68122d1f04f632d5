"""Which version scores: the champion, or the one before it where its bundle is refused. Needs no torch."""

import hashlib
import logging

from fracture_ml.core.errors import ObjectWithheld
from fracture_ml.core.records import ModelVersion
from fracture_ml.stores import Stores

log = logging.getLogger(__name__)

_ALERT = "bundle"


def find_scoring_version(stores: Stores) -> ModelVersion | None:
    """The champion; where its bundle is not what was registered, or the bucket withholds that object alone, the newest
    champion before it whose bundle is whole.

    A refused bundle opens an alert, which is settled once nothing waits for that bundle any more: it is whole again, or
    people rolled back. Where none is whole, the champion is returned all the same: whoever opens its bundle is refused,
    and the run fails.

    Raises: StorageUnavailable, DatabaseUnavailable.
    """
    line = stores.registry.line_of_champions()[::-1]
    refused: dict[str, ModelVersion] = {}
    scoring, withheld = None, None
    for version in line:
        if alert_subject(version) in refused:
            continue
        try:
            is_whole = bundle_is_whole(stores, version)
        except ObjectWithheld as fault:  # perhaps of this one object: the next one tells
            withheld, is_whole = fault, False
        if is_whole:
            scoring = version
            break
        refused[alert_subject(version)] = version
    if withheld and not scoring:
        raise withheld
    if scoring:
        meanwhile = f"version {scoring.version} keeps scoring"
    else:
        meanwhile = "no champion before it has a whole one, and nothing is scored"
    for subject in refused:
        sentence = (
            f"The bundle of {subject} is not what was registered, or the bucket withholds it; {meanwhile}. "
            "Restore the bundle from a copy, or roll back."
        )
        log.error("%s", sentence)
        stores.monitoring.raise_alert(_ALERT, subject, sentence)
    for alert in stores.monitoring.open_alerts():
        if alert["kind"] == _ALERT and alert["subject"] not in refused:
            stores.monitoring.settle_alert(_ALERT, alert["subject"])
    return scoring or (line[0] if line else None)


def bundle_is_whole(stores: Stores, version: ModelVersion) -> bool:
    """Whether the bundle in the bucket is the one that was registered. Raises: StorageUnavailable."""
    data = stores.bucket.find(version.bundle_key)
    return data is not None and hashlib.sha256(data).hexdigest() == version.bundle_sha256


def raise_bundle_alert(stores: Stores, version: ModelVersion, sentence: str) -> None:
    """Ask a person to look at a bundle that was refused."""
    stores.monitoring.raise_alert(_ALERT, alert_subject(version), sentence)


def alert_subject(version: ModelVersion) -> str:
    return f"version {version.version}"
