"""A JPEG 2000 code stream's structure, read without decoding: its size, and what is only a comment.

Source: ITU-T T.800, Annex A (markers and segments).
"""

import struct

from fracture_ml.core.errors import Corrupt, Truncated

_SOT, _SOD, _EOC, _COM = 0xFF90, 0xFF93, 0xFFD9, 0xFF64
_START = b"\xff\x4f\xff\x51"  # SOC, SIZ


def size_of(frame: bytes) -> tuple[int, int, int]:
    """Columns, rows and components. Raises: Truncated, Corrupt."""
    start = _start_of(frame)
    right, bottom, left, top = struct.unpack_from(">IIII", frame, start + 8)
    (components,) = struct.unpack_from(">H", frame, start + 40)
    return right - left, bottom - top, components


def without_comments(frame: bytes) -> bytes:
    """The code stream alone, its comments blanked: the same image, bit for bit.

    A comment keeps its length, since the lengths of what is around it are written in several places. What stands before
    the code stream (a JP2 header) and behind its end marker is left out.

    Raises: Truncated, Corrupt.
    """
    start = _start_of(frame)
    stream = bytearray(frame[start:].rstrip(b"\0"))
    position = 2
    while True:
        position, tile_part = _blank_comments(stream, position)
        marker, _ = _marker_at(stream, position)
        if marker == _EOC:
            return bytes(stream[: position + 2])
        (length,) = struct.unpack_from(">I", stream, tile_part + 6)  # Psot, from the SOT marker on; 0: up to the end
        position = tile_part + length if length else len(stream) - 2


def _start_of(frame: bytes) -> int:
    start = frame.find(_START, 0, 4096)  # some writers put a JP2 header before it
    if start < 0 or start + 42 > len(frame):
        raise Corrupt("The JPEG 2000 code stream has no header.")
    if not frame.rstrip(b"\0").endswith(b"\xff\xd9"):
        raise Truncated("The JPEG 2000 code stream ends before its pixels do.")
    return start


def _blank_comments(stream: bytearray, position: int) -> tuple[int, int]:
    """Blank the comments of the header at `position`. Returns: where its pixels (SOD) or the end marker stand, and
    where its tile-part began."""
    tile_part = position
    while True:
        marker, length = _marker_at(stream, position)
        if marker in (_SOD, _EOC):
            return position, tile_part
        if marker == _SOT:
            tile_part = position
        if marker == _COM:
            stream[position + 6 : position + 2 + length] = bytes(max(length - 4, 0))
        position += 2 + length


def _marker_at(stream: bytearray, position: int) -> tuple[int, int]:
    """A marker, and the length of its segment (0 where it has none). Raises: Corrupt."""
    if position + 2 > len(stream):
        raise Corrupt("A segment of the JPEG 2000 code stream does not end where it says.")
    (marker,) = struct.unpack_from(">H", stream, position)
    if marker in (_SOD, _EOC):
        return marker, 0
    if marker < 0xFF00 or position + 4 > len(stream):
        raise Corrupt("A segment of the JPEG 2000 code stream does not end where it says.")
    (length,) = struct.unpack_from(">H", stream, position + 2)
    if length < 2 or position + 2 + length > len(stream):
        raise Corrupt("A segment of the JPEG 2000 code stream does not end where it says.")
    return marker, length
