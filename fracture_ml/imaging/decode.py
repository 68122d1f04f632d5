"""Bytes of a received object become a grey picture, or one of our reasons why not."""

import io
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image
from pydicom import Dataset, uid

from fracture_ml.core.errors import (
    BurnedInIdentity,
    Corrupt,
    EmptyObject,
    NotAnImage,
    NotARadiograph,
    TooLarge,
    Truncated,
)
from fracture_ml.core.records import MediaType
from fracture_ml.imaging import png
from fracture_ml.imaging.dicom_attributes import admit, read_dicom
from fracture_ml.imaging.dicom_pixels import DicomHeader
from fracture_ml.imaging.dicom_shades import counts_of, looked_up, usual_range
from fracture_ml.imaging.jpeg import read_jpeg_structure, require_whole_scan

# A pixel is coloured where its channels differ by this much of 255, and a picture is a photograph where this share of
# its pixels is. In FracAtlas no channel differs at all; tinted film scans stay below the first, coloured annotations
# below the second.
_COLOURED_FROM = 40
_COLOURED_SHARE = 0.05
_COLOUR_GRID_PX = 512
_BLANK_BELOW_LEVELS = 8
_HIDES_BELOW = 32  # of 255: as transparent as that, nobody sees what is there

# EXIF's orientation -> quarter turns anticlockwise, then mirrored left to right.
_TURNS = {
    1: (0, False),
    2: (0, True),
    3: (2, False),
    4: (2, True),
    5: (3, True),
    6: (3, False),
    7: (1, True),
    8: (1, False),
}


@dataclass(frozen=True, kw_only=True)
class DecodeLimits:
    """What a place admits. Sizes are checked before anything is decoded."""

    max_bytes: int = 200 * 2**20
    max_pixels: int = 100_000_000
    min_side_px: int = 32
    admit_secondary_capture: bool = False
    admit_for_processing: bool = False

    def require_bytes(self, size_bytes: int) -> None:
        """Raises: TooLarge."""
        if size_bytes > self.max_bytes:
            raise TooLarge(
                f"{size_bytes:,} bytes, and at most {self.max_bytes:,} are admitted (FRACTURE_MAX_OBJECT_MIB)."
            )


DEFAULT_LIMITS = DecodeLimits()


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A decoded object. `width_px` and `height_px` are those of the whole image, also where `pixels` are fewer."""

    pixels: np.ndarray  # uint8, (H, W), 0 = black, bone bright
    width_px: int
    height_px: int
    bits_stored: int
    photometric: str  # MONOCHROME1, MONOCHROME2 or RGB, as received
    media_type: MediaType
    dataset: Dataset | None = None  # DICOM only: the admitted attributes


def sniff(data: bytes) -> MediaType:
    """What the first bytes say, whatever the name says. Raises: EmptyObject, NotAnImage."""
    if not data:
        raise EmptyObject("The object has no bytes; send it again.")
    if data.startswith(png.SIGNATURE):
        return MediaType.PNG
    if data.startswith(b"\xff\xd8\xff"):
        return MediaType.JPEG
    if data[128:132] == b"DICM":
        return MediaType.DICOM
    raise NotAnImage("The bytes are not PNG, JPEG or DICOM, whatever the name says.")


def decode(
    data: bytes,
    limits: DecodeLimits = DEFAULT_LIMITS,
    *,
    at_least_px: int | None = None,
    colours_checked: bool = False,
) -> np.ndarray:
    """The object's pixels, as a person would look at them.

    Args:    at_least_px: a JPEG may be decoded at 1/2, 1/4 or 1/8 as long as its longer side stays at least this.
             colours_checked: as every stored radiograph's were when it was taken in: a JPEG's are not decoded again,
             which gives the same picture in two thirds of the time (docs/LOG.md).
    Returns: uint8, (H, W), 0 = black, bone bright.
    Raises:  an UnusableObject, whatever the bytes are: EmptyObject, NotAnImage, TooLarge (before decoding), Truncated,
             Corrupt, NotARadiograph, UnsupportedDicom, BurnedInIdentity.
    """
    return read_picture(data, limits, at_least_px=at_least_px, colours_checked=colours_checked).pixels


def read_picture(
    data: bytes,
    limits: DecodeLimits = DEFAULT_LIMITS,
    *,
    at_least_px: int | None = None,
    colours_checked: bool = False,
) -> Picture:
    """Like `decode`, with what the file says about the image. Decodes once."""
    media_type = sniff(data)
    limits.require_bytes(len(data))
    if media_type is MediaType.JPEG:
        picture = _read_jpeg(data, limits, at_least_px, colours_checked)
    elif media_type is MediaType.PNG:
        picture = _read_png(data, limits)
    else:
        picture = _read_dicom(data, limits)
    if int(picture.pixels.max()) - int(picture.pixels.min()) < _BLANK_BELOW_LEVELS:
        raise NotARadiograph("The image is blank.")
    return picture


def _require_size(width_px: int, height_px: int, limits: DecodeLimits) -> None:
    if width_px * height_px > limits.max_pixels:
        raise TooLarge(
            f"{width_px} x {height_px} pixels, and at most {limits.max_pixels:,} are admitted (FRACTURE_MAX_PIXELS)."
        )
    if min(width_px, height_px) < limits.min_side_px:
        raise NotARadiograph(
            f"{width_px} x {height_px} pixels: a side is shorter than {limits.min_side_px}, too small for a radiograph."
        )


def _read_jpeg(data: bytes, limits: DecodeLimits, at_least_px: int | None, colours_checked: bool) -> Picture:
    structure = read_jpeg_structure(data)
    width_px, height_px = structure.width_px, structure.height_px
    _require_size(width_px, height_px, limits)
    if structure.components not in (1, 3):
        raise NotARadiograph(f"A JPEG of {structure.components} colour components (CMYK) is not a radiograph.")
    if structure.bits != 8:
        raise Corrupt(f"A JPEG of {structure.bits} bits a sample can be read inside DICOM only.")
    shrink_to = None
    if at_least_px is not None:
        share = at_least_px / max(width_px, height_px)
        shrink_to = (max(1, math.ceil(width_px * share)), max(1, math.ceil(height_px * share)))
    pixels = _grey_of(_decoded(structure.image_only, "JPEG", shrink_to, "L" if colours_checked else None))
    require_whole_scan(pixels)
    turns, mirrored = _TURNS[structure.orientation]
    pixels = np.rot90(pixels, turns)
    if mirrored:
        pixels = np.fliplr(pixels)
    if turns % 2:
        width_px, height_px = height_px, width_px
    return Picture(
        pixels=np.ascontiguousarray(pixels),
        width_px=width_px,
        height_px=height_px,
        bits_stored=8,
        photometric="RGB" if structure.components == 3 else "MONOCHROME2",
        media_type=MediaType.JPEG,
    )


def _read_png(data: bytes, limits: DecodeLimits) -> Picture:
    structure = png.read_png_structure(data)
    _require_size(structure.width_px, structure.height_px, limits)
    if structure.is_animated:
        raise NotARadiograph("An animated PNG is not a radiograph: send each frame as a file of its own.")
    if structure.bits == 16 and structure.channels > 1:  # Pillow keeps the high bytes alone: 12 bits would be black
        raise NotARadiograph("A PNG of 16 bits in colour or with transparency: save it as 16-bit grey.")
    structure.require_whole()
    return Picture(
        pixels=_grey_of(_decoded(structure.image_only, "PNG")),
        width_px=structure.width_px,
        height_px=structure.height_px,
        bits_stored=structure.bits,
        photometric="RGB" if structure.is_colour else "MONOCHROME2",
        media_type=MediaType.PNG,
    )


def _read_dicom(data: bytes, limits: DecodeLimits) -> Picture:
    dataset = read_dicom(data)
    admit(
        dataset,
        secondary_capture=limits.admit_secondary_capture,
        for_processing=limits.admit_for_processing,
    )
    header = DicomHeader.of(dataset)
    _require_size(header.columns, header.rows, limits)
    pixels = header.rendered_grey() if header.samples == 1 else _grey_of(Image.fromarray(header.rendered_rgb()))
    if header.samples == 3 and dataset.file_meta.TransferSyntaxUID == uid.JPEGBaseline8Bit:
        require_whole_scan(pixels)
    return Picture(
        pixels=pixels,
        width_px=header.columns,
        height_px=header.rows,
        bits_stored=header.bits_stored,
        photometric=header.photometric if header.samples == 1 else "RGB",
        media_type=MediaType.DICOM,
        dataset=dataset,
    )


def _decoded(
    image_only: bytes, kind: str, shrink_to: tuple[int, int] | None = None, mode: str | None = None
) -> Image.Image:
    """Pillow's image, loaded; a JPEG's in the size and mode that are asked for. Bytes come with a checked structure."""
    try:
        image = Image.open(io.BytesIO(image_only), formats=[kind])
        image.draft(mode, shrink_to)  # a JPEG alone heeds it
        image.load()
    except Image.DecompressionBombError:
        raise TooLarge("More pixels than the decoder admits.") from None
    except (OSError, SyntaxError, ValueError, EOFError) as fault:
        if "truncated" in str(fault):
            raise Truncated(f"The {kind} ends before its pixels do.") from None
        raise Corrupt(f"The {kind} cannot be decoded.") from None
    return image


def _grey_of(image: Image.Image) -> np.ndarray:
    """uint8, (H, W). Transparent parts become black; 16 bits are stretched over their usual range.

    Raises: NotARadiograph: the channels really differ. BurnedInIdentity: transparent parts hide something, which would
        stay in what is stored: a name that somebody took away with an eraser.
    """
    if image.mode.startswith("I"):
        return stretched(np.asarray(image))
    if "transparency" in image.info or image.mode in ("LA", "PA", "RGBA"):
        layer = image.convert("RGBA")
        channels = np.asarray(layer)
        if ((channels[..., 3] < _HIDES_BELOW) & channels[..., :3].any(axis=2)).any():
            raise BurnedInIdentity("Transparent parts of the picture hide pixels: save it without transparency.")
        image = Image.new("RGBA", layer.size, (0, 0, 0, 255))
        image.alpha_composite(layer)
    if image.mode in ("P", "RGBA"):
        image = image.convert("RGB")
    if image.mode == "RGB":
        _require_grey(np.asarray(image))
    return np.array(image.convert("L"))


def _require_grey(channels: np.ndarray) -> None:
    """Raises: NotARadiograph: the channels of uint8 (H, W, 3) really differ."""
    row = channels.reshape(-1)
    differs = row[1:] != row[:-1]
    differs[2::3] = False  # from one pixel to the next
    if not differs.any():  # as nearly always: told in a third of the time that the shares below take
        return
    step = max(1, max(channels.shape[:2]) // _COLOUR_GRID_PX)
    red, green, blue = (channels[::step, ::step, channel] for channel in range(3))
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    coloured = float(np.mean(spread >= _COLOURED_FROM))
    if coloured > _COLOURED_SHARE:
        raise NotARadiograph(f"A colour picture is not a radiograph: {coloured:.0%} of its pixels are coloured.")


def stretched(values: np.ndarray) -> np.ndarray:
    """Whole numbers of 16 bits, over their usual range, as uint8 of the same shape. A constant becomes 0."""
    levels = np.arange(1 << 16)
    low, high = usual_range(levels.astype(np.float64), counts_of(values, levels.size))
    table = np.rint(((levels - low) * (255.0 / max(high - low, 1e-9))).clip(0, 255)).astype(np.uint8)
    return looked_up(table, values)
