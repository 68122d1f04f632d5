"""A radiograph's stored bytes: what they were when it came in, or of no use."""

import hashlib
import logging

from fracture_ml.core.errors import Altered
from fracture_ml.core.records import StoredRadiograph
from fracture_ml.stores.bucket import Bucket

log = logging.getLogger(__name__)


def read_stored(bucket: Bucket, radiograph: StoredRadiograph) -> bytes:
    """The de-identified bytes, which whoever scores, learns from or shows a radiograph reads by this alone.

    Raises: Altered: another object lies there now, or a damaged one. ObjectNotFound, StorageUnavailable.
    """
    data = bucket.read(radiograph.object_key)
    known = radiograph.stored_sha256
    if known is not None and hashlib.sha256(data).hexdigest() != known:
        log.error("radiograph %d: its object in the bucket is not what was stored", radiograph.radiograph_id)
        raise Altered(
            "The stored object is not what was stored when this radiograph came in: put it back from a back-up of the "
            "bucket, and look at who can write there."
        )
    return data
