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

from fracture_ml.core.errors import ObjectNotFound
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
    Returns: counts: images, highlights, reports, captures; not_dicom, which are in the JSON alone; original_gone, of
             which the inbox no longer has the file.
    Raises:  UnknownItem. NotExportable: the extra `dicom` is not installed, or an attribute is not as DICOM has it.
             StorageUnavailable.
    """
    if dicom:
        from fracture_ml.scoring import dicom_results  # an extra: said before anything is written
    counts = {"images": 0, "highlights": 0, "reports": 0, "captures": 0, "not_dicom": 0, "original_gone": 0}
    study = stores.worklist.item_of(study_key)
    ids = [image["radiograph_id"] for image in study["images"]]
    keys = stores.radiographs.received_as(ids) if identified else {}
    images = []
    for number, (image, stored) in enumerate(zip(study["images"], stores.radiographs.stored(ids), strict=True), 1):
        source = None
        if stored.media_type is MediaType.DICOM:
            file = _original_of(stores, stored, keys[stored.radiograph_id]) if identified else _stored(stores, stored)
            source = None if file is None else _attributes_of(file)
            counts["original_gone"] += file is None
        images.append(_exported(stores, number, image, stored, source))
    folder.mkdir(parents=True, exist_ok=True)
    document = to_json(study_key, [one.result for one in images])
    (folder / "results.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
    counts["images"] = len(images)
    counts["not_dicom"] = sum(one.result.referenced is None for one in images) - counts["original_gone"]
    for one in images:
        if one.highlight_png is not None:
            (folder / f"image-{one.result.number}-highlight.png").write_bytes(one.highlight_png)
            counts["highlights"] += 1
    if not dicom:
        return counts

    uid_of = partial(hashed_uid, settings.site_secret_bytes)
    studies: dict[str, list[_Exported]] = defaultdict(list)
    for one in images:
        if one.result.referenced is not None:
            studies[one.result.referenced.study_instance_uid].append(one)
    for number, of_study in enumerate(studies.values(), 1):
        moment = _said_at(study) if identified else _day_of(of_study[0].source)
        report = dicom_results.structured_report(
            [one.result for one in of_study], [one.source for one in of_study], uid_of=uid_of, moment=moment
        )
        (folder / f"report-{number}.dcm").write_bytes(report)
        counts["reports"] += 1
        for one in of_study:
            if one.highlight_png is not None:
                picture = np.asarray(Image.open(io.BytesIO(one.highlight_png)).convert("RGB"))
                capture = dicom_results.highlight_capture(one.result, one.source, picture, uid_of=uid_of, moment=moment)
                (folder / f"image-{one.result.number}-highlight.dcm").write_bytes(capture)
                counts["captures"] += 1
    return counts


def _stored(stores: Stores, stored: StoredRadiograph) -> bytes | None:
    """What is kept of the file, without an identity; None where it is gone."""
    return stores.bucket.find(stored.object_key)


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
