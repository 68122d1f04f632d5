"""A study's results as files for other systems: JSON, the highlights, and on request DICOM objects."""

import hashlib
import io
import json
import logging
import re
import shutil
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from PIL import Image
from pydicom import Dataset
from pydicom.uid import UID

from fracture_ml.core.errors import Altered, DiskFull, NotExportable, ObjectNotFound, is_full_disk
from fracture_ml.core.records import Box, MediaType, OperatingPoint, StoredRadiograph
from fracture_ml.imaging.deidentify import hashed_uid
from fracture_ml.imaging.dicom_attributes import pydicom_at_the_border, text_of
from fracture_ml.scoring.results import ImageResult, ReferencedImage, to_json
from fracture_ml.steps import worklist
from fracture_ml.steps.settings import Settings
from fracture_ml.steps.stored import read_stored
from fracture_ml.stores import Stores

log = logging.getLogger(__name__)

_NO_DAY = datetime(1900, 1, 1)


@dataclass(frozen=True, kw_only=True)
class _Exported:
    """One image: what is said of it, its own attributes where it is a DICOM, its highlight where it has one."""

    result: ImageResult
    media_type: MediaType
    source: Dataset | None  # without pixels; None: no DICOM, or its file is gone
    highlight_png: bytes | None


def export_results(
    stores: Stores, settings: Settings, study_key: str, *, folder: Path, dicom: bool = False, identified: bool = False
) -> dict[str, int]:
    """Write what the AI says of a listed study into `folder`: results.json, a picture of each highlight, and with
    `dicom` a structured report of each DICOM study and a secondary capture of each highlight.

    All of it or nothing, into a folder that its owner alone may enter.

    Args:    identified: name patient, study and images as the inbox's own files do, for the system that sent them. The
             files name a person then. Otherwise everything is named as it is stored here, without an identity.
    Returns: counts: images, highlights; not_dicom, gone (DICOM files that are no longer where they were, or are others)
             and unnamed (DICOM files that lack a UID), which are in the JSON alone; with `dicom`, reports and captures.
    Raises:  UnknownItem. NotExportable: its version was rolled back, the folder is not empty, the extra `dicom` is not
             installed, or the images' attributes do not allow it. StorageUnavailable. DiskFull.
    """
    if folder.exists() and any(folder.iterdir()):
        raise NotExportable("The folder holds files already: name a new one, so that no two studies lie in one.")
    study = stores.worklist.item_of(study_key)
    if study["version"] is not None and stores.registry.is_withdrawn(study["version"]):
        raise NotExportable(
            f"Version {study['version']}, which scored this study, was rolled back: nothing is handed on."
        )
    images = _images_of(stores, study, identified=identified)
    document = to_json([one.result for one in images], **({} if identified else {"study_key": study_key}))
    files = {"results.json": json.dumps(document, indent=1).encode()}
    for one in images:
        if one.highlight_png is not None:
            files[f"image-{one.result.number}-highlight.png"] = one.highlight_png
    of_dicom = [one for one in images if one.media_type is MediaType.DICOM]
    counts = {
        "images": len(images),
        "highlights": len(files) - 1,
        "not_dicom": len(images) - len(of_dicom),
        "gone": sum(one.source is None for one in of_dicom),
        "unnamed": sum(one.source is not None and one.result.referenced is None for one in of_dicom),
    }
    if dicom:
        objects = _dicom_objects(images, settings, identified=identified)
        reports = sum(name.startswith("report-") for name in objects)
        counts |= {"reports": reports, "captures": len(objects) - reports}
        files |= objects
    _write(folder, files)
    return counts


def _write(folder: Path, files: dict[str, bytes]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    writing = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))  # its owner's alone
    try:
        for name, data in files.items():
            (writing / name).write_bytes(data)
        writing.rename(folder)
    except OSError as fault:
        shutil.rmtree(writing, ignore_errors=True)
        if not is_full_disk(fault):
            raise
        raise DiskFull("The disk is full: make room, or name a folder on another one.") from None


def _images_of(stores: Stores, study: dict[str, Any], *, identified: bool) -> list[_Exported]:
    ids = [image["radiograph_id"] for image in study["images"]]
    keys = stores.radiographs.received_as(ids) if identified else {}
    images = []
    for number, (image, stored) in enumerate(zip(study["images"], stores.radiographs.stored(ids), strict=True), 1):
        source = None
        if stored.media_type is MediaType.DICOM:
            file = (
                _original_of(stores, stored, keys[stored.radiograph_id]) if identified else _stored_of(stores, stored)
            )
            source = None if file is None else _attributes_of(file)
        images.append(_exported(stores, number, image, stored, source, identified=identified))
    return images


def _dicom_objects(images: list[_Exported], settings: Settings, *, identified: bool) -> dict[str, bytes]:
    """The files' names and contents."""
    from fracture_ml.scoring import dicom_results  # needs an extra

    def moment_of(some: list[_Exported]) -> datetime:
        return _said_at(some) if identified else _day_of(some[0].source)

    uid_of = partial(hashed_uid, settings.site_secret_bytes)
    studies: dict[str, list[_Exported]] = defaultdict(list)
    for one in images:
        if one.result.referenced is not None:
            studies[one.result.referenced.study_instance_uid].append(one)
    files = {}
    for number, of_study in enumerate(studies.values(), 1):
        files[f"report-{number}.dcm"] = dicom_results.structured_report(
            [one.result for one in of_study],
            [one.source for one in of_study],
            uid_of=uid_of,
            moment=moment_of(of_study),
        )
        for one in of_study:
            if one.highlight_png is not None:
                picture = np.asarray(Image.open(io.BytesIO(one.highlight_png)).convert("RGB"))
                files[f"image-{one.result.number}-highlight.dcm"] = dicom_results.highlight_capture(
                    one.result, one.source, picture, uid_of=uid_of, moment=moment_of([one])
                )
    return files


def _original_of(stores: Stores, stored: StoredRadiograph, keys: list[str]) -> bytes | None:
    """The file that this radiograph came as; None where the inbox has it no longer, or another one under its name."""
    for key in keys:
        data = stores.bucket.find(key)
        if data is not None and hashlib.sha256(data).hexdigest() == stored.sha256:
            return data
    return None


def _stored_of(stores: Stores, stored: StoredRadiograph) -> bytes | None:
    """Its file without an identity; None where the bucket has it no longer, or another one in its place."""
    try:
        return read_stored(stores.bucket, stored)
    except (Altered, ObjectNotFound):
        return None


def _attributes_of(file: bytes) -> Dataset:
    with pydicom_at_the_border():
        return pydicom.dcmread(io.BytesIO(file), stop_before_pixels=True)


def _exported(
    stores: Stores,
    number: int,
    image: dict[str, Any],
    stored: StoredRadiograph,
    source: Dataset | None,
    *,
    identified: bool,
) -> _Exported:
    """Without an identity neither the hash of the file as it came is told, by which who has the file could tell whose
    results these are, nor the hour, by which they could tell how far the study's day was moved."""
    outcome = image["prediction"] or {}
    point, box = outcome.get("operating_point"), outcome.get("box")
    result = ImageResult(
        number=number,
        names={"sha256": stored.sha256} if identified else {"radiograph_id": stored.radiograph_id},
        referenced=None if source is None else _names_of(source),
        width_px=image["width_px"],
        height_px=image["height_px"],
        model=stores.registry.version_of(outcome["version"]) if outcome else None,
        probability=outcome.get("calibrated"),
        operating_point=None if point is None else OperatingPoint(point),
        reason=outcome.get("reason"),
        box=None if box is None else Box(**box),
        scored_at=datetime.fromisoformat(outcome["scored_at"]).astimezone(UTC) if outcome and identified else None,
    )
    highlight = None
    if outcome.get("heat_map_key") is not None:
        try:
            highlight = worklist.highlighted_png(stores, outcome["version"], stored.radiograph_id)
        except ObjectNotFound:
            log.warning("the highlight of radiograph %d is no longer in the bucket", stored.radiograph_id)
    return _Exported(result=result, media_type=stored.media_type, source=source, highlight_png=highlight)


def _names_of(source: Dataset) -> ReferencedImage | None:
    """None where one of its names is missing or none at all: it cannot be pointed at."""
    keywords = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
    sop_class, instance, series, study = (text_of(source, keyword) for keyword in keywords)
    if not all(name and UID(name).is_valid for name in (sop_class, instance, series, study)):
        return None
    return ReferencedImage(
        sop_class_uid=sop_class, sop_instance_uid=instance, series_instance_uid=series, study_instance_uid=study
    )


def _said_at(images: list[_Exported]) -> datetime:
    """When the last of these was scored, by the clock that the first one's file says it has; else UTC's."""
    zone = re.fullmatch(r"([+-])(\d\d)(\d\d)", text_of(images[0].source, "TimezoneOffsetFromUTC") or "+0000")
    sign, hours, minutes = zone.groups() if zone else ("+", "0", "0")
    offset = timedelta(hours=int(hours), minutes=int(minutes)) * (1 if sign == "+" else -1)
    said = [one.result.scored_at for one in images if one.result.scored_at is not None]
    return max(said).astimezone(timezone(offset)) if said else _day_of(images[0].source)


def _day_of(source: Dataset) -> datetime:
    """The study's own day, which was moved when it was stored: the true one would tell by how much."""
    try:
        return datetime.strptime(text_of(source, "StudyDate") or "", "%Y%m%d")
    except ValueError:
        return _NO_DAY
