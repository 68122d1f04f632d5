"""A hospital's inbox, drawn: radiographs of invented people in three formats, a manifest, and what goes wrong.

Nothing that a file shows without its pixels (name, format, size, priority, age) depends on the label. All of it is
decided by the seed: the same seed writes the same bytes, on any number of processes.
"""

import csv
import io
import multiprocessing
import os
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, generate_uid

from fracture_ml.core.records import BodyPart, LabelSource, LabelValue, MediaType, Priority
from fracture_ml.demo.drawing import DrawnRadiograph, draw_study
from fracture_ml.imaging.png import SIGNATURE, chunk

MANIFEST = "manifest.csv"
OVERSIZED_SIDE_PX = 20_000
_ISSUER = "DRAWN-HOSPITAL"
_TODAY = date(2026, 3, 2)
_FAMILY_NAMES = "Aldermoor Brantwick Corvane Dellwood Estravel Fenmarch Galloway-Pym Harrowin Istrand Jessamy".split()
_GIVEN_NAMES = "Ada Bertil Clio Darius Edda Finn Greta Hugo Ines Jonas Kaja Leon Mira Nils Oona Pavel".split()
# How many studies of each: shafts are what a small network learns in minutes; joints are there, and hard.
_STUDIES_OF = {
    BodyPart.FOREARM: 5,
    BodyPart.LEG: 5,
    BodyPart.HUMERUS: 4,
    BodyPart.FEMUR: 4,
    BodyPart.HAND: 2,
    BodyPart.WRIST: 2,
    BodyPart.ANKLE: 2,
    BodyPart.ELBOW: 1,
    BodyPart.KNEE: 1,
    BodyPart.FOOT: 1,
}
_BODY_PART_EXAMINED = {
    BodyPart.HAND: ("HAND", "FINGER"),
    BodyPart.WRIST: ("WRIST",),
    BodyPart.FOREARM: ("FOREARM", "LOWER ARM"),
    BodyPart.ELBOW: ("ELBOW",),
    BodyPart.HUMERUS: ("HUMERUS", "UPPER ARM"),
    BodyPart.FEMUR: ("FEMUR", "THIGH"),
    BodyPart.KNEE: ("KNEE",),
    BodyPart.LEG: ("LEG", "LOWER LEG", "TIBIA FIBULA"),
    BodyPart.ANKLE: ("ANKLE",),
    BodyPart.FOOT: ("FOOT", "TOE"),
}
_VIEW_POSITION = {"frontal": "AP", "lateral": "LATERAL", "oblique": "OBLIQUE"}
_COLUMNS = (
    "object_key patient_key study_key body_part view laterality hardware label label_source labelled_by labelled_at "
    "box_x box_y box_w box_h"
).split()


@dataclass(frozen=True, kw_only=True)
class InboxFacts:
    """What was written, so that a run over it can be checked to the last file."""

    files: int  # with the manifest
    radiographs: int  # usable and different: what ingest must store
    exact_copies: int
    near_duplicates: int  # among the radiographs
    truncated: int
    not_images: int
    colour_photographs: int
    oversized: int
    positive: int  # usable radiographs by the label that the manifest gives
    negative: int
    uncertain: int
    patients: int  # with labels
    studies: int  # with labels
    arrival_studies: int
    by_media_type: dict[str, int]  # usable radiographs
    held_back: dict[str, bool] = field(repr=False)  # today's arrivals: path -> fractured

    @property
    def arrivals(self) -> int:
        """Radiographs without a label."""
        return len(self.held_back)

    @property
    def quarantined_by_code(self) -> dict[str, int]:
        """What ingest must refuse, by the code of core.errors."""
        return {
            "truncated": self.truncated,
            "not_an_image": self.not_images,
            "not_a_radiograph": self.colour_photographs,
            "too_large": self.oversized,
        }

    def __str__(self) -> str:
        return (
            f"{self.files} files: {self.radiographs} radiographs ({self.positive} with a fracture, {self.negative} "
            f"without, {self.uncertain} uncertain, {self.arrivals} that arrived today) of {self.patients} labelled "
            f"patients, {self.near_duplicates} of them near duplicates; {self.exact_copies} exact copies, "
            f"{sum(self.quarantined_by_code.values())} unusable files, a manifest"
        )


@dataclass(frozen=True, kw_only=True)
class _Person:
    number: int
    name: str  # family^given
    sex: str
    born: date
    child: bool

    @property
    def patient_id(self) -> str:
        return f"D{self.number:06d}"


@dataclass(frozen=True, kw_only=True)
class _StudyJob:
    """All that a worker needs to draw and write one study."""

    seed: tuple[int, int, int]  # inbox, patient, study
    person: _Person
    body_part: BodyPart
    fractured: bool
    views: int
    taken_at: datetime
    media_type: MediaType
    monochrome1: bool
    compressed: bool  # DICOM: RLE Lossless
    colour_mode: str  # JPEG: L, or RGB with three equal channels
    quality: int  # JPEG
    priority: Priority
    label: LabelValue
    reader: str
    source: LabelSource
    truncate: bool = False  # the first image's file

    @property
    def folder(self) -> str:
        """Below the inbox; sorts before what is sent again."""
        return f"{self.taken_at:%Y/%m/%d}/ST{self.seed[1]:05d}{self.seed[2]}"

    @property
    def study_uid(self) -> str:
        return _uid("study", *self.seed)


@dataclass(frozen=True, kw_only=True)
class _WrittenImage:
    path: str  # below the inbox, with /
    job: _StudyJob
    rows: tuple[dict[str, object], ...]  # of the manifest: one a box, one where there is none
    truncated: bool


def write_inbox(
    folder: Path,
    *,
    patients: int,
    seed: int,
    arrival_studies: int | None = None,
    truncated_png: int = 3,
    truncated_jpeg: int = 3,
    exact_copies: int = 6,
    near_duplicates: int = 6,
    uncertain_studies: int = 2,
    workers: int | None = None,
) -> InboxFacts:
    """Draw `patients` people's labelled studies and today's arrivals (a tenth as many) into `folder`.

    About three images a patient; about a third of the studies show a fracture. The manifest is written last: a folder
    that has one is whole.
    """
    rng = np.random.default_rng([seed, 0])
    jobs = _damaged(_labelled_jobs(rng, patients, seed), truncated_png, truncated_jpeg)
    jobs = _made_uncertain(jobs, uncertain_studies)
    arrivals = _arrival_jobs(
        rng, patients, seed, max(1, patients // 10) if arrival_studies is None else arrival_studies
    )
    folder.mkdir(parents=True, exist_ok=True)
    written = list(_write_studies(folder, [*jobs, *arrivals], workers or os.cpu_count() or 1))
    usable = [image for image in written if not image.truncated]
    labelled = [image for image in usable if image.job.label is not LabelValue.ABSENT]

    resent = folder / "resent"
    resent.mkdir(exist_ok=True)
    originals = [labelled[at] for at in rng.permutation(len(labelled))]
    copies = originals[:exact_copies]
    for number, image in enumerate(copies):
        source = folder / image.path
        (resent / f"COPY{number:03d}{source.suffix}").write_bytes(source.read_bytes())
    pictures = [image for image in originals[exact_copies:] if image.job.media_type is not MediaType.DICOM]
    again = [_save_again(folder, image, number) for number, image in enumerate(pictures[:near_duplicates])]
    (resent / "reading_list.png").write_text("Tuesday: three wrists, one ankle, and coffee.\n")
    (resent / "corridor.jpg").write_bytes(_colour_photograph(rng))
    (resent / "scan_of_everything.png").write_bytes(_oversized_png(OVERSIZED_SIDE_PX))

    _write_manifest(folder / MANIFEST, [row for image in [*written, *again] for row in image.rows])
    labels = Counter(image.job.label for image in [*labelled, *again])
    unlabelled = [image for image in usable if image.job.label is LabelValue.ABSENT]
    return InboxFacts(
        files=len(written) + len(copies) + len(again) + 4,
        radiographs=len(usable) + len(again),
        exact_copies=len(copies),
        near_duplicates=len(again),
        truncated=len(written) - len(usable),
        not_images=1,
        colour_photographs=1,
        oversized=1,
        positive=labels[LabelValue.POSITIVE],
        negative=labels[LabelValue.NEGATIVE],
        uncertain=labels[LabelValue.UNCERTAIN],
        patients=len({job.person.number for job in jobs}),
        studies=len(jobs),
        arrival_studies=len(arrivals),
        by_media_type=dict(
            Counter(str(image.job.media_type) for image in usable) + Counter({"image/jpeg": len(again)})
        ),
        held_back={image.path: image.job.fractured for image in unlabelled},
    )


# --- who comes, and with what ---------------------------------------------------------------------


def _labelled_jobs(rng: np.random.Generator, patients: int, seed: int) -> list[_StudyJob]:
    jobs = []
    for number in range(patients):
        person = _invent(rng, number)
        for study in range(int(rng.choice([1, 2, 3], p=(0.62, 0.28, 0.10)))):
            label = LabelValue.POSITIVE if rng.random() < 0.35 else LabelValue.NEGATIVE
            days_ago = int(rng.integers(2, 700))
            jobs.append(_plan_study(rng, person, (seed, number, study), label, days_ago))
    return jobs


def _arrival_jobs(rng: np.random.Generator, patients: int, seed: int, studies: int) -> list[_StudyJob]:
    return [
        _plan_study(rng, _invent(rng, patients + number), (seed, patients + number, 0), LabelValue.ABSENT, 0)
        for number in range(studies)
    ]


def _invent(rng: np.random.Generator, number: int) -> _Person:
    child = bool(rng.random() < 0.15)
    age_days = int(rng.integers(5 * 365, 13 * 365) if child else rng.integers(18 * 365, 94 * 365))
    return _Person(
        number=number,
        name=f"{rng.choice(_FAMILY_NAMES)}^{rng.choice(_GIVEN_NAMES)}",
        sex=str(rng.choice(["F", "M"])),
        born=_TODAY - timedelta(days=age_days),
        child=child,
    )


def _plan_study(
    rng: np.random.Generator, person: _Person, seed: tuple[int, int, int], label: LabelValue, days_ago: int
) -> _StudyJob:
    parts, shares = list(_STUDIES_OF), np.array(list(_STUDIES_OF.values()))
    truth = rng.random() < 0.35
    media_type = (MediaType.PNG, MediaType.JPEG, MediaType.DICOM)[int(rng.choice(3, p=(0.42, 0.36, 0.22)))]
    taken_at = datetime.combine(_TODAY, time(8), UTC) - timedelta(days=days_ago, seconds=-int(rng.integers(36_000)))
    return _StudyJob(
        seed=seed,
        person=person,
        body_part=parts[int(rng.choice(len(parts), p=shares / shares.sum()))],
        fractured=bool(truth) if label is LabelValue.ABSENT else label is LabelValue.POSITIVE,
        views=int(rng.choice([1, 2, 3], p=(0.25, 0.55, 0.20))),
        taken_at=taken_at,
        media_type=media_type,
        monochrome1=bool(rng.random() < 0.4),
        compressed=bool(rng.random() < 0.12),
        colour_mode="RGB" if rng.random() < 0.15 else "L",
        quality=int(rng.choice([80, 88, 94])),
        priority=(Priority.ROUTINE, Priority.URGENT, Priority.STAT)[int(rng.choice(3, p=(0.7, 0.2, 0.1)))],
        label=label,
        reader=f"reader-{int(rng.integers(1, 5))}",
        source=LabelSource.RADIOLOGIST if rng.random() < 0.6 else LabelSource.REPORT,
    )


def _damaged(jobs: Sequence[_StudyJob], png: int, jpeg: int) -> list[_StudyJob]:
    """The last studies of each format lose the end of their first file."""
    left = {MediaType.PNG: png, MediaType.JPEG: jpeg, MediaType.DICOM: 0}
    chosen = []
    for job in reversed(jobs):
        truncate = left[job.media_type] > 0
        left[job.media_type] -= truncate
        chosen.append(replace(job, truncate=truncate))
    return chosen[::-1]


def _made_uncertain(jobs: Sequence[_StudyJob], studies: int) -> list[_StudyJob]:
    """The reader of the first studies could not tell."""
    return [replace(job, label=LabelValue.UNCERTAIN) if at < studies else job for at, job in enumerate(jobs)]


# --- drawing and writing, in the workers ----------------------------------------------------------


def _write_studies(folder: Path, jobs: Sequence[_StudyJob], workers: int) -> Iterable[_WrittenImage]:
    if workers == 1:
        for job in jobs:
            yield from _write_study(folder, job)
        return
    # A fresh interpreter each: a forked one may hold locks of this one's threads.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for images in pool.map(_write_study, [folder] * len(jobs), jobs, chunksize=4):
            yield from images


def _write_study(folder: Path, job: _StudyJob) -> list[_WrittenImage]:
    rng = np.random.default_rng(job.seed)
    drawn = draw_study(rng, body_part=job.body_part, fractured=job.fractured, views=job.views, child=job.person.child)
    (folder / job.folder).mkdir(parents=True, exist_ok=True)
    images = []
    for number, radiograph in enumerate(drawn):
        path = f"{job.folder}/IM{number + 1:02d}{job.media_type.suffix}"
        data = _encode(job, number, radiograph, rng)
        truncated = job.truncate and number == 0
        if truncated:
            data = data[: int(len(data) * rng.uniform(0.3, 0.8))]
        (folder / path).write_bytes(data)
        rows = _manifest_rows(path, job, radiograph)
        images.append(_WrittenImage(path=path, job=job, rows=rows, truncated=truncated))
    return images


def _encode(job: _StudyJob, number: int, radiograph: DrawnRadiograph, rng: np.random.Generator) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(radiograph.pixels)
    if job.media_type is MediaType.PNG:
        # Machines that export pictures write names into them.
        text = PngImagePlugin.PngInfo()
        text.add_text("Description", f"{job.person.name} {job.person.patient_id}")
        image.save(stream, "PNG", compress_level=3, pnginfo=text)
    elif job.media_type is MediaType.JPEG:
        comment = f"{job.person.name} {job.person.patient_id}"
        image.convert(job.colour_mode).save(stream, "JPEG", quality=job.quality, comment=comment)
    else:
        _dicom(job, number, radiograph, rng).save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _dicom(job: _StudyJob, number: int, radiograph: DrawnRadiograph, rng: np.random.Generator) -> Dataset:
    """12 bits in 16; the window gives back the drawn 8 bits exactly, in both photometric interpretations."""
    digital = bool(job.seed[1] % 3)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1" if digital else "1.2.840.10008.5.1.4.1.1.1"
    meta.MediaStorageSOPInstanceUID = _uid("instance", *job.seed, number)
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = job.study_uid, _uid("series", *job.seed)
    dataset.PatientName, dataset.PatientID, dataset.IssuerOfPatientID = job.person.name, job.person.patient_id, _ISSUER
    dataset.PatientSex, dataset.PatientBirthDate = job.person.sex, f"{job.person.born:%Y%m%d}"
    dataset.PatientAge = f"{(job.taken_at.date() - job.person.born).days // 365:03d}Y"
    dataset.StudyDate = dataset.AcquisitionDate = f"{job.taken_at:%Y%m%d}"
    dataset.StudyTime = dataset.AcquisitionTime = f"{job.taken_at:%H%M%S}"
    dataset.AccessionNumber = f"A{job.seed[1]:05d}{job.seed[2]}"
    dataset.Modality = "DX" if digital else "CR"
    dataset.PresentationIntentType = "FOR PRESENTATION"
    dataset.Manufacturer, dataset.StationName = ("Plattenwerk", "ROOM2") if digital else ("Phosphora", "ROOM1")
    names = _BODY_PART_EXAMINED[job.body_part]
    dataset.BodyPartExamined = names[job.seed[1] % len(names)]
    dataset.ViewPosition = _VIEW_POSITION[radiograph.view]
    dataset.ImageLaterality = radiograph.laterality
    dataset.RequestedProcedurePriority = {"ROUTINE": "ROUTINE", "URGENT": "HIGH", "STAT": "STAT"}[job.priority]
    dataset.BurnedInAnnotation = "NO"
    dataset.InstanceNumber = number + 1
    offset = int(rng.integers(100, 900))
    stored = (offset + 10 * radiograph.pixels.astype(np.uint16)).astype(np.uint16)
    middle = offset + 1275
    if job.monochrome1:
        stored, middle = np.uint16(4095) - stored, 4095 - middle
    dataset.PhotometricInterpretation = "MONOCHROME1" if job.monochrome1 else "MONOCHROME2"
    dataset.PresentationLUTShape = "INVERSE" if job.monochrome1 else "IDENTITY"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    # PS3.3 C.11.2.1.2: the window's ends are middle -+ 1275, shown as 0 and 255.
    dataset.WindowCenter, dataset.WindowWidth = f"{middle + 0.5}", "2551"
    dataset.PixelData = stored.astype("<u2").tobytes()
    if job.compressed:
        dataset.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    return dataset


def _manifest_rows(path: str, job: _StudyJob, radiograph: DrawnRadiograph) -> tuple[dict[str, object], ...]:
    row: dict[str, object] = {
        "object_key": path,
        "patient_key": f"{_ISSUER}|{job.person.patient_id}",
        "study_key": job.study_uid,
        "body_part": job.body_part,
        "view": radiograph.view,
        "laterality": radiograph.laterality,
        "hardware": "yes" if radiograph.hardware else "no",
        "label": job.label,
    }
    if job.label is not LabelValue.ABSENT:
        labelled_at = job.taken_at + timedelta(hours=5)
        row |= {"label_source": job.source, "labelled_by": job.reader, "labelled_at": labelled_at.isoformat()}
    if job.label is not LabelValue.POSITIVE:
        return (row,)
    return tuple(
        row | {"box_x": box.x, "box_y": box.y, "box_w": box.width, "box_h": box.height} for box in radiograph.boxes
    )


def _write_manifest(path: Path, rows: Iterable[dict[str, object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _uid(*parts: object) -> str:
    return str(generate_uid(entropy_srcs=["drawn", *map(str, parts)]))


# --- what goes wrong ------------------------------------------------------------------------------


def _save_again(folder: Path, image: _WrittenImage, number: int) -> _WrittenImage:
    """The same picture, a fifth smaller and compressed once more; labelled, but nobody says whose it is."""
    path = f"resent/SCALED{number:03d}.jpg"
    with Image.open(folder / image.path) as picture:
        size = (round(picture.width * 0.8), round(picture.height * 0.8))
        picture.convert("L").resize(size, Image.Resampling.BICUBIC).save(folder / path, "JPEG", quality=82)
    unknown = {"patient_key": "", "study_key": ""}
    scaled = {name: "" for name in ("box_x", "box_y", "box_w", "box_h")}
    row = {**image.rows[0], **unknown, **scaled, "object_key": path}
    return replace(image, path=path, rows=(row,))


def _colour_photograph(rng: np.random.Generator) -> bytes:
    """A corridor with a green door, as somebody's telephone saw it; JPEG."""
    height, width = 480, 640
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    light = 1.1 - 0.5 * np.hypot(rows / height - 0.35, columns / width - 0.5)
    picture = light[..., None] * np.array((214, 196, 160), np.float32)
    floor = rows > 330 + 0.06 * np.abs(columns - 320)
    picture[floor] = (light[..., None] * np.array((96, 74, 58), np.float32))[floor]
    door = (np.abs(columns - 330) < 74) & (rows > 96) & (rows < 345)
    picture[door] = (light[..., None] * np.array((42, 128, 84), np.float32))[door]
    sign = (np.abs(columns - 330) < 46) & (np.abs(rows - 62) < 16)
    picture[sign] = (220, 44, 36)
    picture += rng.normal(0, 5, picture.shape)
    stream = io.BytesIO()
    Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(stream, "JPEG", quality=85)
    return stream.getvalue()


def _oversized_png(side_px: int) -> bytes:
    """A valid PNG of side_px x side_px black pixels, one bit each: tens of kilobytes that unpack to far more."""
    packer = zlib.compressobj(1)
    rows = bytes(1 + (side_px + 7) // 8) * 100
    packed = b"".join(packer.compress(rows) for _ in range(side_px // 100)) + packer.flush()
    header = struct.pack(">IIBBBBB", side_px, side_px, 1, 0, 0, 0, 0)
    return SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
