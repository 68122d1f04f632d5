"""A PNG's chunks, written, and read without decoding: is the file whole, how large is the image, what is metadata.

Source: W3C, Portable Network Graphics (third edition).
"""

import struct
import zlib
from dataclasses import dataclass

from fracture_ml.core.errors import Corrupt, Truncated

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type: grey, RGB, palette, grey + alpha, RGB + alpha
_BIT_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
# Pixels, and numbers of fixed length that say how to show them. Text, EXIF, time and profiles are dropped.
_KEPT = {b"IHDR", b"PLTE", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"pHYs", b"IDAT", b"IEND"}
_PALETTE = 3
# Adam7: first column, first row, column step, row step.
_WHOLE = ((0, 0, 1, 1),)
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_INFLATE_STEP_BYTES = 1 << 20


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk as it stands in the file: its length, its kind (4 letters), its content, and their sum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))


@dataclass(frozen=True, kw_only=True)
class PngStructure:
    """`image_only` is the same image, bit for bit, without what the decoder does not need."""

    width_px: int
    height_px: int
    bits: int
    channels: int
    is_colour: bool
    is_animated: bool
    image_only: bytes
    _raw_bytes: int
    _compressed: tuple[bytes, ...]

    def require_whole(self) -> None:
        """Raises: Truncated: the compressed rows end early. Corrupt: they cannot be inflated.

        Pillow leaves missing rows black and says nothing.
        """
        inflater, missing = zlib.decompressobj(), self._raw_bytes
        try:
            for content in self._compressed:
                waiting = content
                while waiting and missing > 0 and not inflater.eof:
                    missing -= len(inflater.decompress(waiting, _INFLATE_STEP_BYTES))
                    waiting = inflater.unconsumed_tail
            while missing > 0 and not inflater.eof and (rest := inflater.decompress(b"", _INFLATE_STEP_BYTES)):
                missing -= len(rest)
        except zlib.error:
            raise Corrupt("The PNG's rows cannot be inflated.") from None
        if missing > 0:
            raise Truncated("The PNG's rows end early.")


def read_png_structure(data: bytes) -> PngStructure:
    """Walk the chunks from the signature to IEND, checking the sums of those that make the image.

    Raises: Truncated: no IEND, or a chunk that is longer than the file. Corrupt: a wrong sum, an impossible header.
    """
    kept, compressed = [SIGNATURE], []
    header: tuple[int, int, int, int, int] | None = None
    is_animated, position, kind = False, len(SIGNATURE), b""
    while kind != b"IEND":
        if position + 12 > len(data):
            raise Truncated("The PNG ends before its pixels do.")
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise Truncated("The PNG ends before its pixels do.")
        if kind in _KEPT:
            (checksum,) = struct.unpack_from(">I", data, end - 4)
            if zlib.crc32(memoryview(data)[position + 4 : end - 4]) != checksum:
                raise Corrupt("A PNG chunk does not match its checksum.")
            kept.append(data[position:end])
        if (kind == b"IHDR") != (header is None):
            raise Corrupt("The PNG's header does not stand first, or stands twice.")
        if kind == b"IHDR":
            header = _header_of(data[position + 8 : end - 4])
        elif kind == b"IDAT":
            compressed.append(data[position + 8 : end - 4])
        elif kind == b"acTL":
            is_animated = True
        position = end
    if not compressed:
        raise Truncated("The PNG holds no pixels.")
    width_px, height_px, bits, colour_type, interlaced = header
    return PngStructure(
        width_px=width_px,
        height_px=height_px,
        bits=8 if colour_type == _PALETTE else bits,
        channels=_CHANNELS[colour_type],
        is_colour=colour_type in (2, _PALETTE, 6),
        is_animated=is_animated,
        image_only=b"".join(kept),
        _raw_bytes=_raw_bytes(width_px, height_px, bits * _CHANNELS[colour_type], _ADAM7 if interlaced else _WHOLE),
        _compressed=tuple(compressed),
    )


def _header_of(content: bytes) -> tuple[int, int, int, int, int]:
    """Width, height, bits a sample, colour type, interlace method."""
    if len(content) != 13:
        raise Corrupt("The PNG's header is broken.")
    width_px, height_px, bits, colour_type, compression, row_filter, interlaced = struct.unpack(">IIBBBBB", content)
    if not (width_px and height_px) or bits not in _BIT_DEPTHS.get(colour_type, ()):
        raise Corrupt("The PNG's header names no image that exists.")
    if compression or row_filter or interlaced > 1:
        raise Corrupt("The PNG's header names an unknown compression, filter or interlacing.")
    return width_px, height_px, bits, colour_type, interlaced


def _raw_bytes(
    width_px: int, height_px: int, bits_per_pixel: int, passes: tuple[tuple[int, int, int, int], ...]
) -> int:
    """Bytes of the inflated rows: each row is its filter's byte and its packed pixels."""
    total = 0
    for first_column, first_row, column_step, row_step in passes:
        columns = -((first_column - width_px) // column_step)
        rows = -((first_row - height_px) // row_step)
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * bits_per_pixel + 7) // 8)
    return total
