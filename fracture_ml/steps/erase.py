"""One study, or all of one patient's, taken out for good: bytes, pictures, names, scores, labels, reads."""

import hashlib
import logging
from contextlib import suppress
from functools import partial
from typing import Any

from fracture_ml.core.errors import Conflict, NotAllowed, ObjectNotFound, ObjectWithheld, UnknownItem
from fracture_ml.core.records import LabelClaim
from fracture_ml.data.cache import PixelCache
from fracture_ml.data.labels import patient_key_of
from fracture_ml.imaging.deidentify import keyed_hash
from fracture_ml.steps import keys
from fracture_ml.steps.pictures import take_out_pictures
from fracture_ml.steps.settings import Settings
from fracture_ml.stores import Stores
from fracture_ml.stores.bucket import Bucket
from fracture_ml.stores.erasures import Erasable, LabelName
from fracture_ml.stores.predictions import BLOCK_SIZE

log = logging.getLogger(__name__)

_SHORTEST_BEGINNING = 6  # of a study's key: an empty variable of a script must not name whoever is listed


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
             the same and are not known to be this patient's; "caches", "caches_left": pixel caches of this machine
             that were deleted, and that could not be.
    Raises:  UnknownItem: nothing is kept under this name. Conflict: a study of the patient holds another one's images,
             or the patient's labels speak of another one's. NotAllowed: whole_patient, and no patient or several are
             known; neither of the three, or several; too short a beginning of a study's key.
             StorageUnavailable, DatabaseUnavailable: run it again; the latter also where somebody holds a lock for more
             than five minutes.
    """
    if sum(name is not None for name in (study, patient, object_key)) != 1:
        raise NotAllowed("Name one of them: a study, a patient, or an object of the inbox.")
    if study is not None and len(study) < _SHORTEST_BEGINNING:
        raise NotAllowed(f"Give at least {_SHORTEST_BEGINNING} characters of the study's key.")
    named: dict[str, str | None] = {
        "study_key": _study_key(stores, study) if study is not None else None,
        "patient_key": patient_key_of(settings.site_secret_bytes, patient) if patient is not None else None,
        "object_key": object_key,
    }
    if whole_patient and patient is None:
        named["patient_key"] = _only_patient(stores.erasures.find(**named))
    require = partial(_require_erasable, patient_key=named["patient_key"])
    if dry_run:
        found = stores.erasures.find(**named)
        require(found)
        return _answer(found)

    drop_caches(stores, settings)  # also where another machine erased it, or the rows went and a cache did not
    hashes_of = partial(_hashes_of, bucket=stores.bucket, secret=settings.site_secret_bytes)
    with stores.erasures.erasing(actor=actor, reason=reason, hashes_of=hashes_of, require=require, **named) as erased:
        for key, radiograph_ids in _pictures_of(stores, erased).items():
            take_out_pictures(stores.bucket, key, radiograph_ids)
        for key, _ in _still_there(stores.bucket, erased):
            stores.bucket.delete(key)
        for key in erased.stored_keys:
            stores.bucket.delete(key)
    dropped, left = drop_caches(stores, settings)
    answer = _answer(erased) | {"caches": dropped, "caches_left": left}
    log.info("erased: %s", {name: count for name, count in answer.items() if isinstance(count, int)})
    return answer


class Erased:
    """A question to ask of whatever comes in: whether it must not come back."""

    def __init__(self, stores: Stores, settings: Settings) -> None:
        self._names, self._secret = stores.erasures.names(), settings.site_secret_bytes

    def __bool__(self) -> bool:
        """Whether there is anything that must not come back."""
        return bool(self._names)

    def has_file(self, data: bytes) -> bool:
        """A file as it comes in."""
        return bool(self) and self.has_sha256(hashlib.sha256(data).hexdigest())

    def has_sha256(self, sha256: str) -> bool:
        """A file whose bytes have this hash, in hex."""
        return bool(self) and _hash(self._secret, "sha256", sha256) in self._names

    def has_label(self, claim: LabelClaim) -> bool:
        """Of a label file's row: the same name for the same patient and study."""
        return bool(self) and _hash_of_label(self._secret, claim) in self._names


def drop_caches(stores: Stores, settings: Settings) -> tuple[int, int]:
    """Delete this machine's pixel caches that hold what was erased, here or elsewhere.

    Returns: how many were deleted, and how many could not be, as where they are another user's: the log says so.
    """
    if not (erased := Erased(stores, settings)):
        return 0, 0
    dropped, left = PixelCache.drop(settings.cache_dir, erased.has_sha256)
    if left:
        log.warning("%d pixel caches with erased images cannot be deleted: delete FRACTURE_CACHE_DIR by hand", left)
    return dropped, left


def _still_there(bucket: Bucket, erased: Erasable) -> list[tuple[str, str]]:
    """Those of the inbox's objects that are still what was received: another may have the name now."""
    there = {(one.key, one.etag) for key in {key for key, _ in erased.received} for one in bucket.list(key)}
    return [received for received in erased.received if received in there]


def _files_of(bucket: Bucket, erased: Erasable) -> list[str]:
    """sha256 of what is still in the inbox: of what was quarantined, no hash has been kept.

    What the bucket does not hand over has none; it was never read here.
    """
    found = []
    for key, _ in _still_there(bucket, erased):
        with suppress(ObjectNotFound, ObjectWithheld):
            found.append(hashlib.sha256(bucket.read(key)).hexdigest())
    return found


def _pictures_of(stores: Stores, erased: Erasable) -> dict[str, tuple[int, ...]]:
    """Object key -> whose: what predictions name, and all that lies beside it, which a killed worker may have left."""
    pictures, ids = dict(erased.pictures), set(map(str, erased.radiograph_ids))
    for version in stores.registry.versions():
        for block in sorted({id_ // BLOCK_SIZE for id_ in erased.radiograph_ids}):
            for found in stores.bucket.list(f"{keys.attention_block_folder(version.version, block)}/"):
                if not found.key.endswith(".png") or found.key.rsplit("/", 1)[1].split("-")[0] in ids:
                    pictures.setdefault(found.key, erased.radiograph_ids)
    return pictures


def _study_key(stores: Stores, study: str) -> str:
    """The listed one that begins so, else as given, where such a study is here. Raises: UnknownItem."""
    try:
        return stores.worklist.study_key_of(study)
    except UnknownItem:
        if stores.erasures.find(study_key=study):
            return study
        raise


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
    if found.others:
        raise Conflict(
            f"Labels of this patient speak of radiographs that are known as somebody else's ({found.others[0]} is the "
            "first): erase those by their study or their object too, or correct the label file."
        )


def _hash(secret: bytes, kind: str, *what: str) -> str:
    return keyed_hash(secret, "erased", kind, *what)


def _hash_of_label(secret: bytes, label: LabelClaim | LabelName) -> str:
    whom = (label.patient_key or "", label.study_key or "")
    return _hash(secret, "label", label.subject_kind, label.subject, label.scope, *whom)


def _hashes_of(erased: Erasable, *, bucket: Bucket, secret: bytes) -> list[str]:
    """A label that names nobody is not kept out: its file's name may be another patient's by then."""
    labels = [label for label in erased.label_names if label.patient_key or label.study_key]
    files = [_hash(secret, "sha256", sha256) for sha256 in (*erased.sha256s, *_files_of(bucket, erased))]
    return [*files, *(_hash_of_label(secret, label) for label in labels)]


def _answer(found: Erasable) -> dict[str, Any]:
    return found.counts() | {"learned": list(found.learned), "near_duplicates": list(found.near_duplicates)}
