"""A study's results as files for other systems: JSON, the highlights, and on request DICOM objects."""

import hashlib
import io
import json
import logging
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from PIL import Image
from pydicom import Dataset

from fracture_ml.core.errors import NotExportable, ObjectNotFound
from fracture_ml.core.records import Box, MediaType, OperatingPoint, StoredRadiograph
from fracture_ml.imaging.deidentify import hashed_uid
from fracture_ml.imaging.dicom_attributes import pydicom_at_the_border, text_of
from fracture_ml.scoring.results import ImageResult, ReferencedImage, to_json
from fracture_ml.steps import worklist
from fracture_ml.steps.settings import Settings
from fracture_ml.stores import Stores

log = logging.getLogger(__name__)

_NO_DAY = datetime(1900, 1, 1)


@dataclass(frozen=True, kw_only=True)
class _Exported:
    """One image: what is said of it, its own attributes where it is a DICOM, its highlight where it has one."""

    result: ImageResult
    source: Dataset | None  # without pixels
    highlight_png: bytes | None


def export_results(
    stores: Stores, settings: Settings, study_key: str, *, folder: Path, dicom: bool = False, identified: bool = False
) -> dict[str, int]:
    """Write what the AI says of a listed study into `folder`: results.json, a picture of each highlight, and with
    `dicom` a structured report of each DICOM study and a secondary capture of each highlight.

    The same results give the same files and UIDs, so that an archive knows what it has already.

    Args:    identified: name patient, study and images as the inbox's own files do, for the system that sent them. The
             files name a person then. Otherwise everything is named as it is stored here, without an identity.
    Returns: counts: images, highlights; not_dicom, which are in the JSON alone; original_gone, of which the inbox no
             longer has the file; with `dicom`, reports and captures.
    Raises:  UnknownItem. NotExportable: the extra `dicom` is not installed, or an attribute is not as DICOM has it,
             or the folder is not empty. StorageUnavailable. Nothing is written then.
    """
    if folder.exists() and any(folder.iterdir()):
        raise NotExportable("The folder holds files already: name a new one, so that no two studies lie in one.")
    study = stores.worklist.item_of(study_key)
    images, original_gone = _images_of(stores, study, identified=identified)
    document = to_json(study_key, [one.result for one in images])
    files = {"results.json": json.dumps(document, indent=1).encode()}
    for one in images:
        if one.highlight_png is not None:
            files[f"image-{one.result.number}-highlight.png"] = one.highlight_png
    counts = {
        "images": len(images),
        "highlights": len(files) - 1,
        "not_dicom": sum(one.result.referenced is None for one in images) - original_gone,
        "original_gone": original_gone,
    }
    if dicom:
        objects = _dicom_objects(images, settings, said_at=_said_at(study) if identified else None)
        reports = sum(name.startswith("report-") for name in objects)
        counts |= {"reports": reports, "captures": len(objects) - reports}
        files |= objects
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return counts


def _images_of(stores: Stores, study: dict[str, Any], *, identified: bool) -> tuple[list[_Exported], int]:
    """The study's images, and of how many the inbox no longer has the file."""
    ids = [image["radiograph_id"] for image in study["images"]]
    keys = stores.radiographs.received_as(ids) if identified else {}
    images, gone = [], 0
    for number, (image, stored) in enumerate(zip(study["images"], stores.radiographs.stored(ids), strict=True), 1):
        source = None
        if stored.media_type is MediaType.DICOM:
            file = (
                _original_of(stores, stored, keys[stored.radiograph_id])
                if identified
                else stores.bucket.find(stored.object_key)
            )
            source = None if file is None else _attributes_of(file)
            gone += file is None
        images.append(_exported(stores, number, image, stored, source))
    return images, gone


def _dicom_objects(images: list[_Exported], settings: Settings, *, said_at: datetime | None) -> dict[str, bytes]:
    """The files' names and contents. said_at: None: without an identity; each study is dated by its own day."""
    from fracture_ml.scoring import dicom_results  # needs an extra

    uid_of = partial(hashed_uid, settings.site_secret_bytes)
    studies: dict[str, list[_Exported]] = defaultdict(list)
    for one in images:
        if one.result.referenced is not None:
            studies[one.result.referenced.study_instance_uid].append(one)
    files = {}
    for number, of_study in enumerate(studies.values(), 1):
        moment = said_at or _day_of(of_study[0].source)
        files[f"report-{number}.dcm"] = dicom_results.structured_report(
            [one.result for one in of_study], [one.source for one in of_study], uid_of=uid_of, moment=moment
        )
        for one in of_study:
            if one.highlight_png is not None:
                picture = np.asarray(Image.open(io.BytesIO(one.highlight_png)).convert("RGB"))
                files[f"image-{one.result.number}-highlight.dcm"] = dicom_results.highlight_capture(
                    one.result, one.source, picture, uid_of=uid_of, moment=moment
                )
    return files


def _original_of(stores: Stores, stored: StoredRadiograph, keys: list[str]) -> bytes | None:
    """The file that this radiograph came as; None where the inbox has it no longer, or another one under its name."""
    for key in keys:
        data = stores.bucket.find(key)
        if data is not None and hashlib.sha256(data).hexdigest() == stored.sha256:
            return data
    return None


def _attributes_of(file: bytes) -> Dataset:
    with pydicom_at_the_border():
        return pydicom.dcmread(io.BytesIO(file), stop_before_pixels=True)


def _exported(
    stores: Stores, number: int, image: dict[str, Any], stored: StoredRadiograph, source: Dataset | None
) -> _Exported:
    outcome = image["prediction"] or {}
    point, box = outcome.get("operating_point"), outcome.get("box")
    result = ImageResult(
        number=number,
        sha256=stored.sha256,
        referenced=None if source is None else _names_of(source),
        width_px=image["width_px"],
        height_px=image["height_px"],
        model=stores.registry.version_of(outcome["version"]) if outcome else None,
        probability=outcome.get("calibrated"),
        operating_point=None if point is None else OperatingPoint(point),
        reason=outcome.get("reason"),
        box=None if box is None else Box(**box),
    )
    highlight = None
    if outcome.get("heat_map_key") is not None:
        try:
            highlight = worklist.highlighted_png(stores, outcome["version"], stored.radiograph_id)
        except ObjectNotFound:
            log.warning("the highlight of radiograph %d is no longer in the bucket", stored.radiograph_id)
    return _Exported(result=result, source=source, highlight_png=highlight)


def _names_of(source: Dataset) -> ReferencedImage | None:
    """None where one of its names is missing: it cannot be pointed at."""
    keywords = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
    sop_class, instance, series, study = (text_of(source, keyword) for keyword in keywords)
    if not (sop_class and instance and series and study):
        return None
    return ReferencedImage(
        sop_class_uid=sop_class, sop_instance_uid=instance, series_instance_uid=series, study_instance_uid=study
    )


def _said_at(study: dict[str, Any]) -> datetime:
    """When the last of its images was scored, on this machine's clock, as DICOM has it."""
    outcomes = [image["prediction"] for image in study["images"] if image["prediction"]]
    scored_at = [datetime.fromisoformat(outcome["scored_at"]) for outcome in outcomes]
    return max(scored_at, default=study["arrived_at"]).astimezone()


def _day_of(source: Dataset) -> datetime:
    """The study's own day, which was moved when it was stored: the true one would tell by how much."""
    try:
        return datetime.strptime(text_of(source, "StudyDate") or "", "%Y%m%d")
    except ValueError:
        return _NO_DAY
