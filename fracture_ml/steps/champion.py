"""Which version scores: the champion, or the one before it where its bundle is refused. Needs no torch."""

import hashlib
import logging

from fracture_ml.core.errors import ObjectWithheld
from fracture_ml.core.records import ModelVersion
from fracture_ml.steps.context import code_version
from fracture_ml.stores import Stores

log = logging.getLogger(__name__)

_ALERT = "bundle"


def find_scoring_version(stores: Stores) -> ModelVersion | None:
    """The champion; where its bundle is not what was registered, or a worker with this code could not read it, or the
    bucket withholds that object alone, the newest champion before it whose bundle is whole.

    A refused bundle has an open alert, which is settled once nothing waits for that bundle any more: it is whole again,
    this is other code, a worker could read it after all, or people rolled back. Where all are refused, the champion is
    returned all the same: whoever opens its bundle is refused, and the run fails.

    Raises: StorageUnavailable, DatabaseUnavailable.
    """
    line = stores.registry.line_of_champions()[::-1]
    found = {alert["subject"] for alert in stores.monitoring.open_alerts() if alert["kind"] == _ALERT}
    refused: dict[str, tuple[str, str]] = {}
    scoring, withheld = None, None
    for version in line:
        subject, unread = alert_subject(version), _alert_subject_of_unread(version)
        if unread in found:
            what = f"The bundle of {subject} is what was registered, and this code cannot read it"
            refused[unread] = (what, "Put the code that wrote it in place")
        if refused.keys() & {subject, unread}:
            continue
        try:
            is_whole = bundle_is_whole(stores, version)
        except ObjectWithheld as fault:  # perhaps of this one object: the next one tells
            withheld, is_whole = fault, False
        if is_whole:
            scoring = version
            break
        what = f"The bundle of {subject} is not what was registered, or the bucket withholds it"
        refused[subject] = (what, "Restore the bundle from a copy")
    if withheld and not scoring:
        raise withheld
    if scoring:
        meanwhile = f"version {scoring.version} keeps scoring"
    else:
        meanwhile = "no champion before it has one that can be used, and nothing is scored"
    for subject, (what, remedy) in refused.items():
        sentence = f"{what}; {meanwhile}. {remedy}, or roll back."
        log.error("%s", sentence)
        stores.monitoring.raise_alert(_ALERT, subject, sentence)
    for subject in found - refused.keys():
        stores.monitoring.settle_alert(_ALERT, subject)
    return scoring or (line[0] if line else None)


def bundle_is_whole(stores: Stores, version: ModelVersion) -> bool:
    """Whether the bundle in the bucket is the one that was registered. Raises: StorageUnavailable."""
    data = stores.bucket.find(version.bundle_key)
    return data is not None and hashlib.sha256(data).hexdigest() == version.bundle_sha256


def raise_bundle_alert(stores: Stores, version: ModelVersion, sentence: str, *, unread: bool) -> None:
    """Ask a person to look at a bundle that was refused.

    Args: unread: it is what was registered, and this code cannot read it. A plan cannot find that out by itself, and
              passes it over while the alert is open.
    """
    subject = _alert_subject_of_unread(version) if unread else alert_subject(version)
    stores.monitoring.raise_alert(_ALERT, subject, sentence)


def settle_unread_alert(stores: Stores, version: ModelVersion) -> None:
    """This code can read the bundle."""
    stores.monitoring.settle_alert(_ALERT, _alert_subject_of_unread(version))


def alert_subject(version: ModelVersion) -> str:
    return f"version {version.version}"


def _alert_subject_of_unread(version: ModelVersion) -> str:
    """A version's bundle never changes, so that it is unread until the code is another."""
    return f"version {version.version}, unread by code {code_version()}"
