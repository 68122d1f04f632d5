"""Where the network looked. AI attention, not a lesion boundary."""

import textwrap
from functools import cache, lru_cache

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from fracture_ml.core.records import Box
from fracture_ml.imaging.letterbox import LetterboxGeometry
from fracture_ml.scoring.png import png_of

CAPTION = "AI attention, not a lesion boundary. Research use."
LONGEST_SIDE_PX = 512  # of an overlay, without the caption below it
_SHORTEST_LONG_SIDE_PX = 320  # smaller images are enlarged, so that the caption can be read
_MAP_SIDE_PX = 112  # a grid of 7 x 7 holds no more
_BOX_SHARE = 0.5  # the box holds what reaches this share of the maximum
_OPACITY = 0.6
# The overlay is a PNG with a palette, which costs a sixth of one in full colour (docs/LOG.md): 96 greys without
# attention, and 16 for each of ten levels of it. What does not reach a fifth of the maximum stays grey.
_GREYS = (96, *[16] * 10)
_SHOWN_FROM = 0.2


def to_source_aspect(shown: np.ndarray, geometry: LetterboxGeometry) -> np.ndarray:
    """Undo the letterbox: the attention over the source image, 1 where it is highest.

    Attention is what lies above the mean of the image's own area. Grad-CAM cuts at 0 instead, a logit of no meaning
    here: calibration and a threshold for high sensitivity flag images well below it, and their map would be empty.

    Args:    shown: float32, (h, w), evidence or chances over the square that the network saw.
    Returns: float32, (H, W), 0 to 1, at the source's aspect, the longer side 112 px; all 0 where no place of the image
             differs from another. What lies on the letterbox's black bars is left out.
    """
    height, width = shown.shape
    across, down = width / geometry.size_px, height / geometry.size_px
    inside = (
        geometry.left_px * across,
        geometry.top_px * down,
        (geometry.left_px + geometry.inner_width_px) * across,
        (geometry.top_px + geometry.inner_height_px) * down,
    )
    smooth = np.asarray(
        Image.fromarray(shown.astype(np.float32)).resize(
            _scaled(geometry.width, geometry.height, _MAP_SIDE_PX), Image.Resampling.BICUBIC, box=inside
        )
    )
    above = (smooth - smooth.mean(dtype=np.float64)).astype(np.float32).clip(min=0)
    highest = above.max()
    if highest <= 1e-5 * np.abs(smooth).max():  # rounding, not attention
        return np.zeros_like(above)
    return above / highest


def shown_size(width_px: int, height_px: int) -> tuple[int, int]:
    """The size, (width, height), at which a source of this size is shown: the longer side from 320 to 512 px."""
    return _scaled(width_px, height_px, min(max(width_px, height_px, _SHORTEST_LONG_SIDE_PX), LONGEST_SIDE_PX))


def _scaled(width_px: int, height_px: int, longest_px: int) -> tuple[int, int]:
    scale = longest_px / max(width_px, height_px)
    return max(1, round(width_px * scale)), max(1, round(height_px * scale))


def box_of(attention: np.ndarray, width_px: int, height_px: int) -> Box | None:
    """The box, in source pixels, around the region of the strongest attention.

    The region is what is connected to the maximum and reaches half of it. None where there is no attention.

    Args:    attention: (H, W), 0 to 1, over the source image. width_px, height_px: of the source.
    """
    if not attention.any():
        return None
    regions, _ = ndimage.label(attention >= _BOX_SHARE * attention.max())
    strongest = np.unravel_index(np.argmax(attention), attention.shape)
    rows, columns = ndimage.find_objects(regions)[regions[strongest] - 1]
    across, down = width_px / attention.shape[1], height_px / attention.shape[0]
    return Box(
        x=columns.start * across,
        y=rows.start * down,
        width=(columns.stop - columns.start) * across,
        height=(rows.stop - rows.start) * down,
    )


def heat_map_png(attention: np.ndarray) -> bytes:
    """The attention (H, W), 0 to 1, as an 8-bit grey PNG: white is the maximum."""
    return png_of(np.asarray(_levels(attention)))


def overlay_png(pixels: np.ndarray, attention: np.ndarray) -> bytes:
    """The radiograph with the attention over it, and the caption burnt into a strip below, off the anatomy.

    Args:    pixels: uint8, (H, W), the whole source at any size. attention: float32, (h, w), 0 to 1, at its aspect.
    Returns: a PNG of 256 colours, of `shown_size`, and the strip's height.
    """
    width, height = shown_size(*pixels.shape[::-1])
    grey = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
    over = _levels(attention).resize((width, height), Image.Resampling.BILINEAR)
    entries, palette = _palette()
    places = np.asarray(over, np.uint16) << 8 | np.asarray(grey)  # (h, w)
    caption = entries.take(_caption(width, max(height, width)))  # (strip, w)
    return png_of(np.concatenate([entries.take(places), caption]), palette)


@cache
def _palette() -> tuple[np.ndarray, bytes]:
    """The palette's entry for every attention (0 to 255) over every grey, uint8 (256 * 256,), and the palette."""
    levels = len(_GREYS) - 1
    shown = (np.arange(256) / 255 - _SHOWN_FROM) / (1 - _SHOWN_FROM)
    level = np.ceil(shown.clip(min=0) * levels).astype(int)  # (256,)
    first = np.concatenate([[0], np.cumsum(_GREYS)])[level][:, None]  # (256, 1)
    greys = np.array(_GREYS)[level][:, None]
    entries = first + np.arange(256)[None] * greys // 256  # (256, 256)
    colours = []
    for place, count in enumerate(_GREYS):
        share = place / levels
        grey = (np.arange(count)[:, None] + 0.5) * 256 / count - 0.5  # (count, 1)
        colour = np.array(colormaps["inferno"](0.2 + 0.7 * share)[:3]) * 255  # (3,)
        colours.append(grey * (1 - _OPACITY * share) + colour * _OPACITY * share)
    return entries.astype(np.uint8).ravel(), np.concatenate(colours).round().astype(np.uint8).tobytes()


@lru_cache(maxsize=64)
def _caption(width_px: int, longest_px: int) -> np.ndarray:
    """The strip with the caption, uint8, (strip, width_px), grey."""
    font = ImageFont.load_default(size=max(14, longest_px / 42))
    longest_word = max(CAPTION.split(), key=font.getlength)
    if (needed := font.getlength(longest_word) / (0.9 * width_px)) > 1:
        font = ImageFont.load_default(size=font.size / needed)
    letters = max(len(longest_word), int(width_px * 0.9 / (font.getlength(CAPTION) / len(CAPTION))))
    text = "\n".join(textwrap.wrap(CAPTION, letters))
    left, top, right, bottom = ImageDraw.Draw(Image.new("RGB", (1, 1))).multiline_textbbox((0, 0), text, font)
    margin = round(font.size * 0.5)
    strip = Image.new("L", (width_px, round(bottom - top) + 2 * margin), 20)
    ImageDraw.Draw(strip).multiline_text(((width_px - right - left) / 2, margin - top), text, 235, font)
    return np.asarray(strip)


def _levels(attention: np.ndarray) -> Image.Image:
    return Image.fromarray((attention * 255).round().astype(np.uint8))
