"""Heat maps and overlays in the bucket: one archive of each for all that a worker commits together.

A write costs object storage more than a picture's bytes do (docs/LOG.md).
"""

import io
import logging
from collections.abc import Collection, Mapping
from zipfile import BadZipFile, ZipFile, ZipInfo

from fracture_ml.core.errors import ObjectNotFound
from fracture_ml.stores.bucket import Bucket

log = logging.getLogger(__name__)


def write_pictures(bucket: Bucket, key: str, pngs: Mapping[int, bytes]) -> None:
    """Put the pictures under `key`, as a ZIP of `<radiograph id>.png`; the same pictures give the same bytes.

    Raises: StorageUnavailable.
    """
    packed = _packed({_entry(radiograph_id): png for radiograph_id, png in pngs.items()})
    bucket.write(key, packed, "application/zip")


def read_picture(bucket: Bucket, key: str, radiograph_id: int) -> bytes:
    """The PNG of one radiograph from the object that its prediction names. Raises: ObjectNotFound, StorageUnavailable.

    Predictions from before there were archives name a PNG of their own.
    """
    data = bucket.read(key)
    if key.endswith(".png"):
        return data
    with ZipFile(io.BytesIO(data)) as archive:
        try:
            return archive.read(_entry(radiograph_id))
        except KeyError:
            raise ObjectNotFound("The archive that should hold this radiograph's picture does not.") from None


def take_out_pictures(bucket: Bucket, key: str, radiograph_ids: Collection[int]) -> None:
    """Leave these radiographs' pictures out of the object under `key`, and delete it where no other is in it.

    An archive that is damaged is deleted: nobody could read a picture out of it.
    Raises: StorageUnavailable.
    """
    if key.endswith(".png"):
        bucket.delete(key)
        return
    if (data := bucket.find(key)) is None:
        return
    entries = {_entry(radiograph_id) for radiograph_id in radiograph_ids}
    try:
        with ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
            kept = {name: archive.read(name) for name in names if name not in entries}
    except (BadZipFile, EOFError):
        log.warning("an archive of pictures is damaged, and deleted")
        bucket.delete(key)
        return
    if not kept:
        bucket.delete(key)
    elif len(kept) < len(names):
        bucket.write(key, _packed(kept), "application/zip")


def _packed(pngs: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with ZipFile(file, "w") as archive:
        for name, png in pngs.items():
            archive.writestr(ZipInfo(name), png)
    return file.getvalue()


def _entry(radiograph_id: int) -> str:
    return f"{radiograph_id}.png"
