"""A radiograph becomes a square without being stretched, and places in it go with it."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from fracture_ml.core.records import Box


@dataclass(frozen=True, kw_only=True)
class LetterboxGeometry:
    """Where the image of `width` x `height` source pixels lies in a square of `size_px`."""

    width: int
    height: int
    size_px: int
    left_px: int
    top_px: int
    inner_width_px: int
    inner_height_px: int

    @classmethod
    def of(cls, width: int, height: int, size_px: int) -> "LetterboxGeometry":
        scale = size_px / max(width, height)
        inner_width_px = max(1, round(width * scale))
        inner_height_px = max(1, round(height * scale))
        return cls(
            width=width,
            height=height,
            size_px=size_px,
            left_px=(size_px - inner_width_px) // 2,
            top_px=(size_px - inner_height_px) // 2,
            inner_width_px=inner_width_px,
            inner_height_px=inner_height_px,
        )

    def to_square(self, box: Box) -> tuple[float, float, float, float]:
        """A rectangle of the source as left, top, right and bottom in the square, in its pixels, cut to the image."""
        across, down = self.inner_width_px / self.width, self.inner_height_px / self.height
        return (
            self.left_px + min(max(box.x * across, 0.0), self.inner_width_px),
            self.top_px + min(max(box.y * down, 0.0), self.inner_height_px),
            self.left_px + min(max((box.x + box.width) * across, 0.0), self.inner_width_px),
            self.top_px + min(max((box.y + box.height) * down, 0.0), self.inner_height_px),
        )


def letterbox(pixels: np.ndarray, size_px: int) -> np.ndarray:
    """Scale so that the longer side fills the square; keep the aspect; centre; fill with black.

    Args:    pixels: uint8, (H, W).
    Returns: uint8, (size_px, size_px). Antialiased when shrinking.
    """
    height, width = pixels.shape
    geometry = LetterboxGeometry.of(width, height, size_px)
    inner = Image.fromarray(pixels).resize(
        (geometry.inner_width_px, geometry.inner_height_px), Image.Resampling.BICUBIC, reducing_gap=3.0
    )
    square = np.zeros((size_px, size_px), np.uint8)
    square[
        geometry.top_px : geometry.top_px + geometry.inner_height_px,
        geometry.left_px : geometry.left_px + geometry.inner_width_px,
    ] = np.asarray(inner)
    return square
