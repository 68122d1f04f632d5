"""Damaged files, from the inbox to the outcome: each is a radiograph with an outcome, or quarantined with a reason."""

import io
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import text

from fracture_ml.imaging.png import chunk
from fracture_ml.steps import scoring_run
from fracture_ml.steps.ingest import ingest_inbox
from fracture_ml.steps.score import score_batch
from fracture_ml.steps.settings import Settings
from fracture_ml.stores import Stores, open_stores
from fracture_ml.stores.database import migrate, transaction
from tests.imaging.made_files import (
    bytes_of,
    colour_photograph,
    dicom_dataset,
    dicom_of,
    jpeg_of,
    limb,
    png_of,
)
from tests.running import environment_of, settings_of
from tests.steps.drawn_backlog import promote_drawn, receive_drawn

_MAX_GROWTH_MIB = 700


def whole_files() -> list[bytes]:
    picture = limb(48, 40)
    return [
        png_of(picture),
        png_of(Image.fromarray(picture).convert("RGB")),
        png_of(picture.astype(np.uint16) << 8),
        jpeg_of(picture),
        jpeg_of(picture, progressive=True),
        dicom_of(picture.astype(np.uint16) * 16),
    ]


def wrong_types() -> list[bytes]:
    picture = Image.fromarray(limb(48, 40))
    files = [b"", b"\0" * 5000, b"%PDF-1.7 a report", b"PK\3\4 an archive", b"a text", bytes(128) + b"DICM"]
    for kind in ("GIF", "BMP", "WEBP", "TIFF"):
        buffer = io.BytesIO()
        picture.save(buffer, kind)
        files.append(buffer.getvalue())
    return [*files, jpeg_of(picture.convert("CMYK")), png_of(colour_photograph()), png_of(np.zeros((64, 64), np.uint8))]


def animated() -> bytes:
    buffer = io.BytesIO()
    frames = [Image.fromarray(limb(48, 40, seed=seed)) for seed in range(3)]
    frames[0].save(buffer, "PNG", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def bombs() -> list[bytes]:
    """Few bytes that claim, or hold, many pixels."""
    png = png_of(limb(48, 40))
    claims_much = png[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)) + png[33:]
    jpeg = jpeg_of(limb(48, 40))
    frame = jpeg.index(b"\xff\xc0")
    huge_jpeg = jpeg[: frame + 5] + struct.pack(">HH", 65_000, 65_000) + jpeg[frame + 9 :]
    return [claims_much, huge_jpeg, png_of(np.zeros((5000, 5000), np.uint8)), png_of(np.zeros((20, 3000), np.uint8))]


def lying_dicoms() -> list[bytes]:
    """Tags that are missing, or say what is not so."""
    lies = [
        *({name: None} for name in ("Rows", "Columns", "BitsAllocated", "PhotometricInterpretation", "Modality")),
        *({"Rows": rows} for rows in (1, 480, 65_535)),
        {"BitsStored": 40},
        {"BitsAllocated": 32},
        {"SamplesPerPixel": 3},
        {"NumberOfFrames": 7},
        {"PhotometricInterpretation": "PALETTE COLOR"},
        {"PixelRepresentation": 1},
        {"WindowWidth": 0, "WindowCenter": 5},
        {"RescaleSlope": "0", "RescaleIntercept": "0"},
    ]
    files = []
    for lie in lies:
        dataset = dicom_dataset(limb(48, 40).astype(np.uint16) * 16)
        for name, value in lie.items():
            if value is None:
                delattr(dataset, name)
            else:
                setattr(dataset, name, value)
        files.append(bytes_of(dataset))
    dataset = dicom_dataset(limb(48, 40).astype(np.uint16) * 16)
    del dataset.PixelData
    return [*files, bytes_of(dataset)]


def damaged(count: int, seed: int) -> list[bytes]:
    """`count` files: every kind above once, the others by bits that flip and ends that are missing."""
    rng = np.random.default_rng(seed)
    files = [*wrong_types(), animated(), *bombs(), *lying_dicoms()]
    whole = whole_files()
    while len(files) < count:
        content = bytearray(whole[len(files) % len(whole)])
        if rng.random() < 0.3:
            content = content[: rng.integers(1, len(content))]
        for place in rng.integers(0, len(content), rng.integers(1, 12)):
            content[place] ^= 1 << int(rng.integers(8))
        files.append(bytes(content))
    return files


def memory_mib(name: str) -> float:
    """Of this process: VmRSS now, or VmHWM, its highest since it was last reset."""
    (kib,) = re.findall(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    return int(kib) / 1024


@pytest.fixture
def opened(create_database, s3, bucket, tmp_path) -> tuple[Stores, Settings]:
    url = create_database()
    migrate(url)
    settings = settings_of(environment_of(url, s3, bucket, tmp_path), max_pixels=4_000_000)
    return open_stores(database_url=url, bucket=bucket), settings


def score_all(stores: Stores, settings: Settings, version: int) -> dict[str, int]:
    through = stores.radiographs.newest_id()
    score_batch(stores, settings, version=version, first=1, last=through)
    return scoring_run.reconcile(stores, version=version, through=through)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the highest memory is read from Linux's /proc")
def test_every_damaged_file_becomes_an_outcome_or_a_quarantine_row_and_memory_stays_bounded(opened):
    stores, settings = opened
    files = damaged(2000, seed=1)
    for number, content in enumerate(files):
        stores.bucket.write(f"inbox/{number}", content)
    Path("/proc/self/clear_refs").write_text("5")  # the highest so far is forgotten
    before = memory_mib("VmRSS")
    counts = ingest_inbox(stores, settings)
    assert counts["new"] == len(files) == counts["radiograph"] + counts["copy"] + counts["quarantined"]
    assert counts["quarantined"] > len(files) / 3
    with transaction(stores.engine) as connection:
        codes = dict(
            map(tuple, connection.execute(text("SELECT code, count(*) FROM fracture.quarantine GROUP BY code")))
        )
    assert "internal_error" not in codes
    assert {"empty", "not_an_image", "truncated", "too_large", "not_a_radiograph", "corrupt"} <= set(codes)

    receive_drawn(stores, 2)  # labelled ones, for the snapshot that a version belongs to
    version = promote_drawn(stores).version
    outcomes = score_all(stores, settings, version)
    assert outcomes["radiographs"] == counts["radiograph"] + 2 == outcomes["scored"]  # what was accepted can be scored
    assert memory_mib("VmHWM") - before < _MAX_GROWTH_MIB


def test_stored_objects_that_rot_later_are_outcomes_with_a_reason(opened):
    stores, settings = opened
    rotten = damaged(300, seed=2)
    ids = receive_drawn(stores, len(rotten))
    with transaction(stores.engine) as connection:  # as of before the hash was kept, which would tell all of them
        connection.execute(text("UPDATE fracture.radiograph SET stored_sha256 = NULL"))
    version = promote_drawn(stores).version
    for radiograph, content in zip(stores.radiographs.stored(ids), rotten, strict=True):
        stores.bucket.write(radiograph.object_key, content)
    outcomes = score_all(stores, settings, version)
    assert outcomes["missing"] == 0 and outcomes["rejected"] > len(rotten) / 3
    reasons = [stores.predictions.prediction_of(version, one)["reason"] for one in ids]
    assert all(re.match(r"[a-z_]+: .*\.$", reason) for reason in reasons if reason)
