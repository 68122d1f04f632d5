"""Where fractures lie in a letterboxed square, as labels drew them."""

from collections.abc import Sequence

import numpy as np

from fracture_ml.core.records import Box
from fracture_ml.imaging.letterbox import LetterboxGeometry

WHOLE = (0.0, 0.0, 1.0, 1.0)  # a fracture whose place nobody drew may be anywhere
_FINE_PX = 4096  # of the square that boxes are placed in: fine enough for any size that a network sees


def boxes_in_square(images: Sequence[tuple[int, Sequence[Box], int, int]]) -> np.ndarray:
    """The fractures of each image, as shares of its letterboxed square. A box without an area there counts as none.

    Args:    images: label (1 = fracture), its boxes in source pixels, and the source's width and height in pixels.
    Returns: float32, (N, K, 4): left, top, right, bottom, 0 to 1; K is the largest number of boxes of an image, at
             least 1, and what an image has fewer is filled with empty boxes (all 0). An image with a fracture that
             nobody drew has WHOLE; one without a fracture has none.
    """
    found = [_of_image(*image) for image in images]
    square = np.zeros((len(found), max([1, *map(len, found)]), 4), dtype=np.float32)
    for row, boxes in zip(square, found, strict=True):
        row[: len(boxes)] = np.reshape(boxes, (-1, 4))
    return square


def known_places(labels: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """False for an image with a fracture that nobody drew: bool, (N,).

    Args: labels: 0 or 1, (N,). boxes: float32, (N, K, 4), from `boxes_in_square`.
    """
    anywhere = (boxes == WHOLE).all(axis=2).any(axis=1)
    return (labels == 0) | ~anywhere


def _of_image(label: int, boxes: Sequence[Box], width_px: int, height_px: int) -> list[tuple[float, ...]]:
    if not label:
        return []
    geometry = LetterboxGeometry.of(width_px, height_px, _FINE_PX)
    places = [tuple(np.divide(geometry.to_square(box), _FINE_PX)) for box in boxes]
    return [place for place in places if place[0] < place[2] and place[1] < place[3]] or [WHOLE]
