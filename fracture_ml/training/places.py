"""Deep supervision by place: in training, inner layers are asked as well where they see a fracture.

From scratch, a label per image says little about what 14 pixels made of it; a label per cell reaches the inner layers
directly (Lee et al., Deeply-Supervised Nets, 2015).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fracture_ml.data.augment import fracture_in_cells
from fracture_ml.model.network import PLACE_STRIDES_PX

_FRACTURED_FROM = 0.2  # how much of a fracture a cell has to show; less is the edge of a box that was drawn by hand
_FRACTURED_COUNTS = 20.0  # times a cell without one: there are a hundred of those for each


class Places(NamedTuple):
    """What the boxes say of a batch. fractured: float32, (B, h, w), 0 to 1, for each stride. known: bool, (B,)."""

    fractured: tuple[Tensor, ...]
    known: Tensor

    def tensor_split(self, parts: int) -> list["Places"]:
        """The same images in so many parts."""
        fractured = zip(*(of_stride.tensor_split(parts) for of_stride in self.fractured), strict=True)
        return [Places(*pair) for pair in zip(fractured, self.known.tensor_split(parts), strict=True)]


def places_of(theta: Tensor, boxes: Tensor, known: Tensor, image_size_px: int) -> Places:
    """What is to be seen where in each view.

    Args: theta: (B, 2, 3), of the views. boxes: float32, (B, K, 4), as data/boxes.py makes them. known: bool, (B,).
    """
    return Places(tuple(fracture_in_cells(theta, boxes, image_size_px // stride) for stride in PLACE_STRIDES_PX), known)


def loss_of_places(answers: Sequence[Tensor], places: Places) -> Tensor:
    """The cross-entropy of each cell with what the boxes say of it: the mean of an image's cells, summed over the maps.

    Nothing is asked of an image with a fracture that nobody drew: it may be in any cell.

    Args:    answers: float32 logits, (B, h, w), one for each of `places.fractured`.
    Returns: float32, (B,).
    """
    counts = answers[0].new_full((), _FRACTURED_COUNTS)
    of_maps = [
        F.binary_cross_entropy_with_logits(
            answer, (fractured >= _FRACTURED_FROM).float(), pos_weight=counts, reduction="none"
        ).mean(dim=(1, 2))
        for answer, fractured in zip(answers, places.fractured, strict=True)
    ]
    return torch.stack(of_maps).sum(0) * places.known
