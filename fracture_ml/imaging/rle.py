"""DICOM's run lengths, byte by byte. Source: DICOM PS3.5, annex G."""

import struct

from fracture_ml.core.errors import Corrupt, Truncated

_HEADER_BYTES = 64


def pixels_only(frame: bytes, bytes_per_segment: int) -> bytes:
    """The frame with its segments' runs and nothing between or behind them: the same pixels.

    Args:   frame: an RLE frame. bytes_per_segment: what each segment holds when it is decoded: rows x columns.
    Raises: Truncated, Corrupt.
    """
    if len(frame) < _HEADER_BYTES:
        raise Truncated("The DICOM ends before its pixels do.")
    count, *offsets = struct.unpack_from("<16I", frame)
    if not 1 <= count <= 15:
        raise Corrupt("The RLE header of the DICOM names no segments.")
    segments = []
    for offset in offsets[:count]:
        segment = frame[offset : _end_of_runs(frame, offset, bytes_per_segment)]
        segments.append(segment + bytes(len(segment) % 2))
    starts = [_HEADER_BYTES + sum(map(len, segments[:number])) for number in range(count)]
    return struct.pack("<16I", count, *starts, *[0] * (15 - count)) + b"".join(segments)


def _end_of_runs(frame: bytes, position: int, wanted: int) -> int:
    """Where the runs from `position` on have given `wanted` bytes."""
    while wanted > 0:
        if position >= len(frame):
            raise Truncated("The DICOM ends before its pixels do.")
        head = frame[position]
        if head < 128:  # so many bytes and one as they are
            wanted -= head + 1
            position += head + 2
        elif head > 128:  # the next byte, repeated
            wanted -= 257 - head
            position += 2
        else:
            position += 1
    return position
