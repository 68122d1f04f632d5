"""The pixel cache: whole or not at all, found again, and rebuilt where it is damaged."""

import errno
import hashlib
import io
import json
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from fracture_ml.core.errors import DiskFull, ObjectNotFound, RequestFailed, RequestRefused, StorageUnavailable
from fracture_ml.core.records import MediaType, StoredRadiograph
from fracture_ml.data.cache import PixelCache
from fracture_ml.imaging.decode import decode
from fracture_ml.imaging.letterbox import letterbox

SIZE_PX = 64


class Objects:
    """A bucket's worth of PNGs in memory, that counts what is read."""

    def __init__(self, images: int) -> None:
        rng = np.random.default_rng(0)
        self.reads = 0
        self.bytes_of: dict[str, bytes] = {}
        for _ in range(images):
            buffer = io.BytesIO()
            ramp = np.linspace(0, 200, 96)[None, :] + rng.integers(0, 50, (80, 96))
            Image.fromarray(ramp.astype(np.uint8)).save(buffer, "png")
            self.bytes_of[hashlib.sha256(buffer.getvalue()).hexdigest()] = buffer.getvalue()
        self.radiographs = [
            StoredRadiograph(
                radiograph_id=number, sha256=sha256, object_key="", media_type=MediaType.PNG, stored_sha256=sha256
            )
            for number, sha256 in enumerate(self.bytes_of)
        ]

    def read(self, radiograph: StoredRadiograph) -> bytes:
        self.reads += 1
        try:
            return self.bytes_of[radiograph.sha256]
        except KeyError:
            raise ObjectNotFound(radiograph.sha256) from None

    def build(self, folder, **changes) -> PixelCache:
        return PixelCache.build(self.radiographs, SIZE_PX, folder=folder, read=self.read, **changes)


@pytest.mark.parametrize("kind", [RequestRefused, RequestFailed])
def test_a_refused_object_is_left_out_and_looked_for_again_and_refused_ones_alone_are_an_error(objects, tmp_path, kind):
    (refused, *_), read = sorted(objects.bytes_of), objects.read

    def refuse(sha256s: set[str]) -> None:
        def guarded(radiograph: StoredRadiograph) -> bytes:
            if radiograph.sha256 in sha256s:
                raise kind("no")
            return read(radiograph)

        objects.read = guarded

    refuse({refused})
    assert objects.build(tmp_path).failed == {refused: "not_readable: object storage refuses to hand it over"}
    refuse(set())
    assert objects.build(tmp_path).failed == {}
    refuse(set(objects.bytes_of))
    with pytest.raises(kind):
        objects.build(tmp_path / "another")


@pytest.fixture
def objects() -> Objects:
    return Objects(12)


def test_each_radiograph_has_its_row_and_the_second_time_nothing_is_read(objects, tmp_path):
    cache = objects.build(tmp_path)
    assert cache.pixels.shape == (12, SIZE_PX, SIZE_PX) and cache.pixels.dtype == np.uint8
    for sha256, row in cache.row_of.items():
        np.testing.assert_array_equal(
            cache.pixels[row], letterbox(decode(objects.bytes_of[sha256], at_least_px=SIZE_PX), SIZE_PX)
        )
    assert objects.reads == 12 and cache.failed == {}
    objects.radiographs.reverse()
    again = objects.build(tmp_path)
    assert objects.reads == 12
    assert again.row_of == cache.row_of and list(again.row_of) == sorted(again.row_of)


def test_what_is_written_to_the_pixels_never_reaches_the_disk(objects, tmp_path):
    cache = objects.build(tmp_path)
    cache.pixels[:] = 7
    assert objects.build(tmp_path).pixels.max() > 7 and objects.reads == 12


def test_an_unreadable_image_is_recorded_and_leaves_no_gap(objects, tmp_path):
    broken = sorted(objects.bytes_of)[3]
    objects.bytes_of[broken] = objects.bytes_of[broken][:-200]
    cache = objects.build(tmp_path)
    assert len(cache.pixels) == 11 and broken not in cache.row_of
    assert cache.failed[broken].startswith("truncated: ")
    last = max(cache.row_of, key=cache.row_of.get)
    np.testing.assert_array_equal(
        cache.pixels[10], letterbox(decode(objects.bytes_of[last], at_least_px=SIZE_PX), SIZE_PX)
    )
    objects.build(tmp_path)
    assert objects.reads == 12


def test_an_object_that_was_missing_is_looked_for_again(objects, tmp_path):
    missing, data = sorted(objects.bytes_of)[0], objects.bytes_of.pop(sorted(objects.bytes_of)[0])
    assert objects.build(tmp_path).failed[missing].startswith("missing: ")
    before = objects.reads
    assert missing in objects.build(tmp_path).failed
    assert objects.reads <= before + 1  # only what is missing is looked for, and nothing else decoded again
    objects.bytes_of[missing] = data
    assert missing in objects.build(tmp_path).row_of


@pytest.mark.parametrize("damage", ["a byte", "shorter", "no manifest", "half a manifest"])
def test_a_damaged_cache_is_built_anew(objects, tmp_path, damage):
    before = np.array(objects.build(tmp_path).pixels)
    (home,) = tmp_path.iterdir()
    pixels, manifest = home / "pixels.u8", home / "manifest.json"
    if damage == "a byte":
        with pixels.open("r+b") as file:
            file.seek(1000)
            file.write(bytes([file.read(1)[0] ^ 255]))
    elif damage == "shorter":
        os.truncate(pixels, 1000)
    elif damage == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text(manifest.read_text()[:50])
    np.testing.assert_array_equal(objects.build(tmp_path).pixels, before)
    assert objects.reads == 24


def test_storage_that_goes_away_leaves_nothing_half_written(objects, tmp_path):
    def read(radiograph: StoredRadiograph) -> bytes:
        if objects.reads == 5:
            raise StorageUnavailable("gone")
        return objects.read(radiograph)

    with pytest.raises(StorageUnavailable):
        PixelCache.build(objects.radiographs, SIZE_PX, folder=tmp_path, read=read)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_sentence_and_leaves_nothing(objects, tmp_path, monkeypatch):
    def no_room(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", no_room)
        with pytest.raises(DiskFull, match="FRACTURE_CACHE_DIR"):
            objects.build(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert len(objects.build(tmp_path).pixels) == 12


def test_the_longest_unused_cache_makes_room(objects, tmp_path):
    one = 12 * SIZE_PX**2
    for number, other in enumerate((Objects(12).radiographs[:6], Objects(12).radiographs[6:])):
        PixelCache.build(other, SIZE_PX, folder=tmp_path, read=objects.read)
        newest = max(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, (number, number))
    oldest, younger = sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime)
    objects.build(tmp_path, max_bytes=one * 2)
    assert not oldest.exists() and younger.exists()
    with pytest.raises(DiskFull, match="FRACTURE_CACHE_MAX_GIB"):
        PixelCache.build(objects.radiographs, 96, folder=tmp_path, read=objects.read, max_bytes=one)


def test_of_workers_that_need_one_cache_at_once_one_decodes(objects, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        caches = list(pool.map(lambda _: objects.build(tmp_path), range(4)))
    assert objects.reads == 12
    for cache in caches:
        np.testing.assert_array_equal(cache.pixels, caches[0].pixels)


def test_what_a_killed_process_left_behind_is_cleared_after_a_day(objects, tmp_path):
    for name, age_s in (("building-old", 2 * 24 * 3600), ("building-now", 0)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - age_s,) * 2)
    objects.build(tmp_path)
    assert not (tmp_path / "building-old").exists() and (tmp_path / "building-now").exists()


def test_an_empty_snapshot_has_an_empty_cache(tmp_path):
    cache = PixelCache.build([], SIZE_PX, folder=tmp_path, read=lambda radiograph: b"")
    assert cache.pixels.shape == (0, SIZE_PX, SIZE_PX) and cache.row_of == {}


def test_the_process_that_finishes_first_wins(objects, tmp_path):
    """The other one finds the finished cache in its way, and uses it."""
    first = objects.build(tmp_path / "elsewhere")
    (home,) = (tmp_path / "elsewhere").iterdir()
    alone = threading.Lock()

    def read(radiograph: StoredRadiograph) -> bytes:
        with alone:
            if not (tmp_path / "here" / home.name).exists():
                shutil.copytree(home, tmp_path / "here" / home.name)
        return objects.read(radiograph)

    second = PixelCache.build(objects.radiographs, SIZE_PX, folder=tmp_path / "here", read=read)
    np.testing.assert_array_equal(first.pixels, second.pixels)
    assert [path.name for path in (tmp_path / "here").iterdir()] == [home.name]
    assert json.loads((tmp_path / "here" / home.name / "manifest.json").read_text())["size_px"] == SIZE_PX
