"""One study, or all of one patient's, taken out for good: bytes, pictures, names, scores, labels, reads."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from fracture_ml.core.errors import Conflict, NotAllowed, UnknownItem
from fracture_ml.data.cache import PixelCache
from fracture_ml.data.labels import patient_key_of
from fracture_ml.imaging.deidentify import keyed_hash
from fracture_ml.steps.pictures import take_out_pictures
from fracture_ml.steps.settings import Settings
from fracture_ml.stores import Stores
from fracture_ml.stores.erasures import Erasable

log = logging.getLogger(__name__)


def erase(
    stores: Stores,
    settings: Settings,
    *,
    actor: str,
    reason: str,
    study: str | None = None,
    patient: str | None = None,
    object_key: str | None = None,
    whole_patient: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Delete what is kept of a study (or of a patient's studies), also from the inbox, and keep it from coming back.

    A model that learned from it stays: the answer and the record say which did. The record names nobody. Whatever
    fails leaves the rows as they are, so that it can be repeated.

    Args:    study: its key, or how the key of a listed one begins. patient: as `issuer|id`, or the id alone.
             object_key: of an object in the inbox. One of the three. whole_patient: all other studies of the same
             patient too. actor, reason: for the record; they must not name the patient.
             dry_run: count, and delete nothing.
    Returns: counts; "learned": the versions that were made with it; "near_duplicates": ids of radiographs that look
             the same and are not known to be this patient's; "caches": pixel caches of this machine that were deleted.
    Raises:  UnknownItem: nothing is kept under this name. Conflict: a study of the patient holds another one's images.
             NotAllowed: whole_patient, and no patient or several are known; neither of the three, or several.
             StorageUnavailable, DatabaseUnavailable: run it again; the latter also where an ingest or a batch of
             scoring goes on for more than five minutes.
    """
    if sum(name is not None for name in (study, patient, object_key)) != 1:
        raise NotAllowed("Name one of them: a study, a patient, or an object of the inbox.")
    named: dict[str, str | None] = {
        "study_key": _study_key(stores, study) if study is not None else None,
        "patient_key": patient_key_of(settings.site_secret_bytes, patient) if patient is not None else None,
        "object_key": object_key,
    }
    if whole_patient and patient is None:
        named = {"patient_key": _only_patient(stores.erasures.find(**named))}
    found = stores.erasures.find(**named)
    _require_erasable(found, named.get("patient_key"))
    if dry_run:
        return _answer(found)

    def hashes_of(erased: Erasable) -> list[str]:
        return _hashes_of(settings.site_secret_bytes, erased)

    with stores.erasures.erasing(actor=actor, reason=reason, hashes_of=hashes_of, **named) as erased:
        _require_erasable(erased, named.get("patient_key"))
        for key, radiograph_ids in erased.pictures.items():
            take_out_pictures(stores.bucket, key, radiograph_ids)
        for key, etag in erased.received:
            # Another object may lie under the name meanwhile, and be somebody else's.
            if (key, etag) in {(one.key, one.etag) for one in stores.bucket.list(key)}:
                stores.bucket.delete(key)
        for key in erased.stored_keys:
            stores.bucket.delete(key)
    answer = _answer(erased) | {"caches": drop_caches(stores, settings)}
    log.info("erased: %s", {name: count for name, count in answer.items() if isinstance(count, int)})
    return answer


def is_erased(stores: Stores, settings: Settings) -> Callable[..., bool]:
    """A question to ask of whatever comes in: (kind, subject, scope) -> whether it must not come back.

    kind, subject and scope: a LabelClaim's; of bytes "sha256" and their hash, in hex.
    """
    names, secret = stores.erasures.names(), settings.site_secret_bytes

    def asked(kind: str, subject: str, scope: str = "") -> bool:
        return bool(names) and _hash(secret, kind, subject, scope) in names

    return asked


def drop_caches(stores: Stores, settings: Settings) -> int:
    """Delete this machine's pixel caches that hold what was erased, here or elsewhere. Returns: how many."""
    erased = is_erased(stores, settings)
    return PixelCache.drop(settings.cache_dir, lambda sha256: erased("sha256", sha256))


def _study_key(stores: Stores, study: str) -> str:
    """As given, where such a study is here; else the listed one that begins so. Raises: UnknownItem."""
    return study if stores.erasures.find(study_key=study) else stores.worklist.study_key_of(study)


def _only_patient(found: Erasable) -> str:
    if len(found.patient_keys) != 1:
        raise NotAllowed(
            f"{len(found.patient_keys) or 'No'} patients are known of it: name each study, or the patient, by itself."
        )
    return found.patient_keys[0]


def _require_erasable(found: Erasable, patient_key: str | None) -> None:
    if not found:
        raise UnknownItem(
            "Nothing is kept under this name. A patient is written as the images say it, `issuer|id` or the id alone; "
            "a label file is not erased but corrected: send it again without its rows."
        )
    if patient_key is not None and set(found.patient_keys) - {patient_key}:
        raise Conflict(
            "A study of this patient holds images of another one: correct the label file that put them together, or "
            "erase that study by its own key."
        )


def _hash(secret: bytes, kind: str, subject: str, scope: str) -> str:
    return keyed_hash(secret, "erased", kind, subject, scope)


def _hashes_of(secret: bytes, erased: Erasable) -> Sequence[str]:
    names = [(name.subject_kind, name.subject, name.scope) for name in erased.label_names]
    names += [("object_key", key, "") for key, _ in erased.received]
    names += [("sha256", sha256, "") for sha256 in erased.sha256s]
    return [_hash(secret, *name) for name in names]


def _answer(found: Erasable) -> dict[str, Any]:
    return found.counts() | {"learned": list(found.learned), "near_duplicates": list(found.near_duplicates)}
