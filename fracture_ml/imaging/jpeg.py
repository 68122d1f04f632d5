"""A JPEG's structure, read without decoding: is the file whole, how large is the image, and what is only metadata.

Source: ITU-T T.81, Annex B (markers and segments); JFIF 1.02; ITU-T T.87 for JPEG-LS, whose segments look the same.
"""

import re
import struct
from dataclasses import dataclass

import numpy as np

from fracture_ml.core.errors import Corrupt, Truncated

_SOI, _EOI, _SOS, _DNL = 0xD8, 0xD9, 0xDA, 0xDC
_APP0, _APP1, _APP8, _APP14 = 0xE0, 0xE1, 0xE8, 0xEE
_NOT_FRAMES = {0xC4, 0xC8, 0xCC}  # DHT, JPG, DAC: among the numbers of the frame headers
_FRAMES = {marker for marker in range(0xC0, 0xD0) if marker not in _NOT_FRAMES} | {0xF7}  # 0xF7: JPEG-LS
_TABLES = {0xC4, 0xCC, 0xDB, _DNL, 0xDD}  # DHT, DAC, DQT, DNL, DRI
_JPEG_LS, _LSE = 0xF7, 0xF8  # its frame header, and its parameters
_STANDALONE = {0x01, *range(0xD0, 0xD8)}

# Entropy-coded data end at a marker. FF 00 is a stuffed byte, FF D0 to FF D7 are restarts; in JPEG-LS any FF below
# FF 80 is data.
_MARKER_AFTER_SCAN = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")

_MAX_SCANS = 200  # a progressive image has about ten; thousands in a small file only burn time


_ORIENTATION = 0x0112


@dataclass(frozen=True, kw_only=True)
class JpegStructure:
    """`image_only` is the same image, bit for bit, without what the decoder does not need.

    `orientation` is EXIF's, 1 to 8: how the stored rows are to be turned before a person looks at them. It is the one
    thing of the metadata that `image_only` keeps. Width and height are those of the stored rows.
    """

    width_px: int
    height_px: int
    components: int
    bits: int
    orientation: int
    image_only: bytes


def read_jpeg_structure(data: bytes) -> JpegStructure:
    """Walk the segments from the start of the image to its end marker. Bytes after the end marker are left out.

    Raises: Truncated: no end marker, or a segment that is longer than the file. Corrupt: no such structure.
    """
    kept = [data[:2]]
    frame: tuple[int, int, int, int] | None = None  # bits, height, width, components
    scans, orientation, position, is_jpeg_ls = 0, 1, 2, False
    while True:
        start = position
        marker, position = _marker_at(data, position)
        if marker == _EOI:
            kept.append(b"\xff\xd9")
            break
        if marker in _STANDALONE:
            continue
        segment = _segment_at(data, position)
        position += len(segment)
        if marker in _FRAMES:
            if frame is not None or len(segment) < 8:
                raise Corrupt("The JPEG's frame header is broken or stands twice.")
            frame, is_jpeg_ls = struct.unpack(">BHHB", segment[2:8]), marker == _JPEG_LS
            kept.append(data[start:position])
        elif marker == _SOS:
            scans += 1
            end = _MARKER_AFTER_SCAN.search(data, position)
            if frame is None or scans > _MAX_SCANS:
                raise Corrupt("The JPEG's scans come before its frame header, or are too many.")
            if end is None:
                raise Truncated("The JPEG ends before its pixels do.")
            position = end.start()
            kept.append(data[start:position])
        elif marker in _TABLES or (marker == _LSE and is_jpeg_ls):
            kept.append(data[start:position])
        elif marker == _APP0 and segment[2:7] == b"JFIF\0" and len(segment) >= 16:
            kept.append(b"\xff\xe0\x00\x10" + segment[2:14] + b"\0\0")  # its thumbnail is dropped
        elif marker == _APP1 and segment[2:8] == b"Exif\0\0" and orientation == 1:
            orientation = _orientation_in(segment[8:])
            if orientation != 1:
                kept.append(_exif_with(orientation))
        elif marker == _APP8 and segment[2:6] == b"mrfx" and len(segment) >= 7:
            kept.append(b"\xff\xe8\x00\x07" + segment[2:7])  # the same, of JPEG-LS
        elif marker == _APP14 and segment[2:7] == b"Adobe" and len(segment) >= 14:
            kept.append(b"\xff\xee\x00\x0e" + segment[2:14])  # says how colours are coded
    if frame is None or scans == 0:
        raise Corrupt("The JPEG holds no image.")
    bits, height_px, width_px, components = frame
    if not (width_px and height_px and components):
        raise Corrupt("The JPEG's frame header names no size.")
    return JpegStructure(
        width_px=width_px,
        height_px=height_px,
        components=components,
        bits=bits,
        orientation=orientation,
        image_only=b"".join(kept),
    )


def require_whole_scan(pixels: np.ndarray) -> None:
    """Refuse a picture whose scan ended early although the end marker is there.

    libjpeg fills what is missing with coefficients of zero: flat mid-grey, exactly 128, down to the bottom right
    corner. None of FracAtlas's 2,805 whole JPEGs ends in such a corner.

    Args:   pixels: uint8, (H, W), decoded from a JPEG at any scale.
    Raises: Truncated.
    """
    if np.all(pixels[-4:, -16:] == 128):
        raise Truncated("The JPEG's pixels end early: the decoder filled the rest with grey.")


def _orientation_in(tiff: bytes) -> int:
    """EXIF's orientation, 1 to 8; 1 (as stored) where the block says nothing that can be read."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 8:
        return 1
    (position,) = struct.unpack_from(order + "I", tiff, 4)
    if position + 2 > len(tiff):
        return 1
    (entries,) = struct.unpack_from(order + "H", tiff, position)
    for start in range(position + 2, min(position + 2 + 12 * entries, len(tiff) - 11), 12):
        tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, start)
        if tag == _ORIENTATION and kind == 3 and 1 <= value <= 8:
            return value
    return 1


def _exif_with(orientation: int) -> bytes:
    """An EXIF segment that holds an orientation and nothing else."""
    tiff = struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, _ORIENTATION, 3, 1, orientation, 0, 0)
    return b"\xff\xe1" + struct.pack(">H", 8 + len(tiff)) + b"Exif\0\0" + tiff


def _marker_at(data: bytes, position: int) -> tuple[int, int]:
    """The marker at `position` (fill bytes before it are skipped), and the position after it."""
    if position < len(data) and data[position] != 0xFF:
        raise Corrupt("A JPEG segment does not end where it says.")
    while position < len(data) and data[position] == 0xFF:
        position += 1
    if position >= len(data):
        raise Truncated("The JPEG ends before its pixels do.")
    if data[position] in (0x00, _SOI):
        raise Corrupt("A JPEG segment does not end where it says.")
    return data[position], position + 1


def _segment_at(data: bytes, position: int) -> bytes:
    """The segment after a marker: two bytes of length, then its content."""
    if position + 2 > len(data):
        raise Truncated("The JPEG ends before its pixels do.")
    (length,) = struct.unpack_from(">H", data, position)
    if length < 2:
        raise Corrupt("A JPEG segment names an impossible length.")
    if position + length > len(data):
        raise Truncated("The JPEG ends before its pixels do.")
    return data[position : position + length]
