"""What is kept of an image while it is scored: the network's square, and a picture to draw on."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from fracture_ml.imaging.decode import DecodeLimits, read_picture
from fracture_ml.imaging.letterbox import letterbox
from fracture_ml.scoring.heat_map import LONGEST_SIDE_PX


@dataclass(frozen=True, kw_only=True)
class View:
    """One decoded image, small enough to keep hundreds of them. `width_px` and `height_px` are the source's."""

    square: np.ndarray  # uint8, (S, S), letterboxed
    width_px: int
    height_px: int
    shown: np.ndarray  # uint8, (h, w), the whole image, its longer side at most 512 px
    data: bytes | None  # the file, where it holds more of the image than `shown` does; else None

    def picture(self, limits: DecodeLimits) -> np.ndarray:
        """The image to draw on, uint8, (h, w); decoded again where the network needed less of it than a person.

        Raises: an UnusableObject: what was whole at the network's size may not be at a larger one.
        """
        if self.data is None:
            return self.shown
        return _shrunk(read_picture(self.data, limits, at_least_px=LONGEST_SIDE_PX, colours_checked=True).pixels)


def view_of(data: bytes, limits: DecodeLimits, *, image_size_px: int, colours_checked: bool = False) -> View:
    """Decode as the pixel cache of the training does. `colours_checked`: as of `decode`. Raises: an UnusableObject."""
    picture = read_picture(data, limits, at_least_px=image_size_px, colours_checked=colours_checked)
    shown = _shrunk(picture.pixels)
    wanted_px = min(LONGEST_SIDE_PX, max(picture.width_px, picture.height_px))
    return View(
        square=letterbox(picture.pixels, image_size_px),
        width_px=picture.width_px,
        height_px=picture.height_px,
        shown=shown,
        data=data if max(shown.shape) < wanted_px else None,
    )


def _shrunk(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape
    scale = LONGEST_SIDE_PX / max(height, width)
    if scale >= 1:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))
