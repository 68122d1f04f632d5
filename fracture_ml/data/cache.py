"""The pixels of a snapshot, decoded once into one array on disk, named by what is in it."""

import errno
import fcntl
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from isal import isal_zlib

from fracture_ml.core.errors import (
    Altered,
    CacheCorrupt,
    DiskFull,
    ObjectNotFound,
    ObjectWithheld,
    UnusableObject,
    is_full_disk,
)
from fracture_ml.core.recipe import hash_of_json
from fracture_ml.core.records import StoredRadiograph
from fracture_ml.imaging.decode import DEFAULT_LIMITS, DecodeLimits, decode
from fracture_ml.imaging.letterbox import letterbox

log = logging.getLogger(__name__)

_FORMAT = 3  # part of the name: change it whenever the same bytes would give other pixels
_PIXELS = "pixels.u8"
_MANIFEST = "manifest.json"
_BUILDING = "building-"
_ABANDONED_AFTER_S = 24 * 3600
_MISSING = "missing"
_REFUSED = "not_readable"
_MENDED_IN_THE_BUCKET = (_MISSING, _REFUSED, Altered.code)
_READ_AT_ONCE = 2**22
_DECODED_AHEAD = 256  # images in memory at the most that wait to be written


@dataclass(frozen=True)
class PixelCache:
    """Every radiograph of a snapshot at one size. A row's content never changes.

    pixels: uint8, (N, S, S), letterboxed, 0 = black; a memory map, private to this process.
    row_of: sha256 -> row, in the order of the hashes. failed: sha256 -> "code: sentence" of what has no row.
    """

    pixels: np.ndarray
    row_of: dict[str, int]
    failed: dict[str, str]

    @classmethod
    def build(
        cls,
        radiographs: Sequence[StoredRadiograph],
        size_px: int,
        *,
        folder: Path,
        read: Callable[[StoredRadiograph], bytes],
        limits: DecodeLimits = DEFAULT_LIMITS,
        max_bytes: int | None = None,
    ) -> Self:
        """The cache of these radiographs: as it lies in `folder`, or made there now, whole or not at all.

        A radiograph that cannot be read is in `failed` and stops nothing. Other caches, the longest unused first, are
        deleted where all together would exceed `max_bytes`. Of several processes one builds, and the others wait.

        Args:    read: the bytes of a radiograph; called from a thread for each core, and one more.
        Raises:  DiskFull: the disk or `max_bytes` has no room. StorageUnavailable: whatever `read` raises that is not
                 about one object.
        """
        ordered = sorted({radiograph.sha256: radiograph for radiograph in radiographs}.items())
        hashes = [sha256 for sha256, _ in ordered]
        home = folder / f"{size_px}px-{hash_of_json([_FORMAT, size_px, hashes])[:32]}"
        if (known := cls._find(home, size_px, ordered, read)) is not None:
            return known
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _building_alone(folder):
                if (known := cls._find(home, size_px, ordered, read)) is not None:
                    return known
                _make_room(folder, len(hashes) * size_px**2, max_bytes)
                building = Path(tempfile.mkdtemp(prefix=_BUILDING, dir=folder))
                try:
                    rows, failed = _fill(building, [radiograph for _, radiograph in ordered], size_px, read, limits)
                    building.rename(home)
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
                    log.info("another machine has built the pixel cache %s meanwhile", home.name)
                    return cls._open(home, size_px, hashes)
                finally:
                    shutil.rmtree(building, ignore_errors=True)
        except OSError as error:
            if not is_full_disk(error):
                raise
            raise DiskFull(
                f"The disk is full: the pixel cache needs {len(hashes) * size_px**2 / 1e9:.2f} GB; free some, "
                "or give it another folder (FRACTURE_CACHE_DIR)."
            ) from None
        return cls._mapped(home, size_px, rows, failed)

    @staticmethod
    def drop(folder: Path, is_erased: Callable[[str], bool]) -> tuple[int, int]:
        """Delete every cache in `folder` that holds a radiograph of these, or does not say what it holds.

        Args:    is_erased: sha256 -> whether it must not be kept.
        Returns: how many were deleted, and how many could not be.
        """
        held = [home for home in folder.glob("*px-*") if _may_hold(home, is_erased)]
        for home in held:
            shutil.rmtree(home, ignore_errors=True)
        left = sum(home.exists() for home in held)
        return len(held) - left, left

    @classmethod
    def _find(
        cls,
        home: Path,
        size_px: int,
        ordered: Sequence[tuple[str, StoredRadiograph]],
        read: Callable[[StoredRadiograph], bytes],
    ) -> Self | None:
        """The cache that is there. One that is damaged, or lacks an object that is there now, is deleted."""
        if not home.exists():
            return None
        try:
            known = cls._open(home, size_px, [sha256 for sha256, _ in ordered])
        except CacheCorrupt as damage:
            log.warning("The pixel cache %s is built anew: %s", home.name, damage)
        else:
            missing = [of for sha256, of in ordered if known.failed.get(sha256, "").startswith(_MENDED_IN_THE_BUCKET)]
            if not any(_is_there(read, radiograph) for radiograph in missing):
                return known
            log.info("an object that was missing when the pixel cache %s was built is back", home.name)
        shutil.rmtree(home, ignore_errors=True)
        return None

    @classmethod
    def _open(cls, home: Path, size_px: int, hashes: list[str]) -> Self:
        """Raises: CacheCorrupt: no whole manifest, or other bytes than it says."""
        try:
            manifest = json.loads((home / _MANIFEST).read_text())
            rows, failed = manifest["rows"], manifest["failed"]
            found = 0
            with (home / _PIXELS).open("rb") as file:
                while part := file.read(_READ_AT_ONCE):
                    found = isal_zlib.crc32(part, found)
        except (OSError, ValueError, KeyError) as error:
            raise CacheCorrupt(f"its manifest or its pixels cannot be read ({type(error).__name__})") from None
        if found != manifest["pixels_crc32"] or sorted([*rows, *failed]) != hashes:
            raise CacheCorrupt("its pixels are not those that its manifest names")
        return cls._mapped(home, size_px, rows, failed)

    @classmethod
    def _mapped(cls, home: Path, size_px: int, rows: list[str], failed: dict[str, str]) -> Self:
        os.utime(home)  # the time of its last use
        shape = (len(rows), size_px, size_px)
        # copy-on-write: writable, as torch asks for, and nothing that is written reaches the disk
        pixels = np.memmap(home / _PIXELS, np.uint8, "c", shape=shape) if rows else np.zeros(shape, np.uint8)
        return cls(pixels=pixels, row_of={sha256: row for row, sha256 in enumerate(rows)}, failed=failed)


def _may_hold(home: Path, is_erased: Callable[[str], bool]) -> bool:
    try:
        manifest = json.loads((home / _MANIFEST).read_text())
        return any(map(is_erased, [*manifest["rows"], *manifest["failed"]]))
    except (OSError, ValueError, KeyError):
        return True  # it would be built anew


def _fill(
    building: Path,
    radiographs: Sequence[StoredRadiograph],
    size_px: int,
    read: Callable[[StoredRadiograph], bytes],
    limits: DecodeLimits,
) -> tuple[list[str], dict[str, str]]:
    """Decode into `building`, in the given order, the manifest last: the hashes of the rows, and what has failed.

    Nothing waits for the disk: pixels that a crash keeps from reaching it are not those whose checksum the manifest
    has. A CRC tells what an accident does to them, for a sixteenth of a sha256's time (docs/LOG.md).
    """
    rows: list[str] = []
    failed: dict[str, str] = {}
    checksum = 0
    refused: list[ObjectWithheld] = []

    def square_of(radiograph: StoredRadiograph) -> np.ndarray | str:
        try:
            data = read(radiograph)
            return letterbox(decode(data, limits, at_least_px=size_px, colours_checked=True), size_px)
        except ObjectNotFound:
            return f"{_MISSING}: its object is not in the bucket"
        except ObjectWithheld as fault:
            refused.append(fault)
            return f"{_REFUSED}: object storage refuses to hand it over"
        except UnusableObject as error:
            return f"{error.code}: {error}"

    # One waits for the bucket while the others decode; each beyond that costs more than it brings (docs/LOG.md).
    pool = ThreadPoolExecutor((os.cpu_count() or 1) + 1, thread_name_prefix="decode")
    with (building / _PIXELS).open("wb") as file, pool:
        try:
            if radiographs:
                os.posix_fallocate(file.fileno(), 0, len(radiographs) * size_px**2)  # a full disk shows now
            for start in range(0, len(radiographs), _DECODED_AHEAD):
                ahead = radiographs[start : start + _DECODED_AHEAD]
                for radiograph, square in zip(ahead, pool.map(square_of, ahead), strict=True):
                    if isinstance(square, str):
                        failed[radiograph.sha256] = square
                    else:
                        rows.append(radiograph.sha256)
                        file.write(square)
                        checksum = isal_zlib.crc32(square, checksum)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        file.truncate()
    if refused and not rows:  # not the objects' fault: the key may read nothing
        raise refused[0]
    manifest = {"size_px": size_px, "rows": rows, "failed": failed, "pixels_crc32": checksum}
    (building / _MANIFEST).write_text(json.dumps(manifest, indent=1))
    return rows, failed


def _is_there(read: Callable[[StoredRadiograph], bytes], radiograph: StoredRadiograph) -> bool:
    try:
        read(radiograph)
    except (ObjectNotFound, ObjectWithheld, Altered):
        return False
    return True


@contextmanager
def _building_alone(folder: Path) -> Iterator[None]:
    """Wait until no other process of this machine builds a cache here. A killed one's turn ends with it."""
    turn = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(turn, fcntl.LOCK_EX)
        yield
    finally:
        os.close(turn)


def _make_room(folder: Path, needed_bytes: int, max_bytes: int | None) -> None:
    """Delete what a killed process left behind a day ago, and the longest unused caches above `max_bytes`."""
    for abandoned in folder.glob(f"{_BUILDING}*"):
        if time.time() - abandoned.stat().st_mtime > _ABANDONED_AFTER_S:
            shutil.rmtree(abandoned, ignore_errors=True)
    if max_bytes is None:
        return
    if needed_bytes > max_bytes:
        raise DiskFull(
            f"The pixel cache needs {needed_bytes / 1e9:.2f} GB and may have {max_bytes / 1e9:.2f}: allow more "
            "(FRACTURE_CACHE_MAX_GIB), or ask for a smaller image size."
        )
    caches = sorted((path for path in folder.glob("*px-*")), key=lambda path: path.stat().st_mtime)
    sizes = {path: sum(file.stat().st_size for file in path.iterdir()) for path in caches}
    begun = sum(file.stat().st_size for file in folder.glob(f"{_BUILDING}*/*"))  # by others, at this moment
    while caches and sum(sizes[path] for path in caches) + begun + needed_bytes > max_bytes:
        oldest = caches.pop(0)
        log.info("deleting the pixel cache %s, the longest unused", oldest.name)
        shutil.rmtree(oldest, ignore_errors=True)  # a process that still has it mapped keeps its pages
