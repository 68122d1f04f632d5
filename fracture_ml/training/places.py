"""Deep supervision by place: while it is trained, a network also says in its inner layers where it sees a fracture."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fracture_ml.data.augment import fracture_in_cells

STRIDES_PX = (8, 16)  # of the network's input, for one cell of the maps that are asked
_CHANNELS = (512, 1024)
_FRACTURED_FROM = 0.2  # how much of a fracture a cell has to show; less is the edge of a box that was drawn by hand
_FRACTURED_COUNTS = 20.0  # times a cell without one: there are a hundred of those for each
_RARE = -3.0  # a head's first answer, in logits: no fracture here


class Places(NamedTuple):
    """What the boxes say of a batch. fractured: float32, (B, h, w), 0 to 1, for each stride. known: bool, (B,)."""

    fractured: tuple[Tensor, ...]
    known: Tensor

    def tensor_split(self, parts: int) -> list["Places"]:
        """The same images in so many parts."""
        fractured = zip(*(of_stride.tensor_split(parts) for of_stride in self.fractured), strict=True)
        return [Places(*pair) for pair in zip(fractured, self.known.tensor_split(parts), strict=True)]


class PlaceHeads(nn.Module):
    """A linear layer for each of two inner feature maps, which learns from the drawn boxes, cell by cell.

    From scratch, a label per image says little about what 14 pixels made of it; a label per cell reaches the inner
    layers directly (Lee et al., Deeply-Supervised Nets, 2015). Only the training has these layers, no bundle does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(channels, 1, kernel_size=1) for channels in _CHANNELS)
        for layer in self.layers:
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, _RARE)

    def forward(self, feature_maps: Sequence[Tensor]) -> list[Tensor]:
        """The feature maps of STRIDES_PX, (B, channels, h, w) each -> float32 logits, (B, h, w) each."""
        with torch.autocast(feature_maps[0].device.type, enabled=False):
            pairs = zip(self.layers, feature_maps, strict=True)
            return [layer(features.float()).squeeze(1) for layer, features in pairs]


def places_of(theta: Tensor, boxes: Tensor, known: Tensor, image_size_px: int) -> Places:
    """What is to be seen where in each view.

    Args: theta: (B, 2, 3), of the views. boxes: float32, (B, K, 4), as data/boxes.py makes them. known: bool, (B,).
    """
    return Places(tuple(fracture_in_cells(theta, boxes, image_size_px // stride) for stride in STRIDES_PX), known)


def loss_of_places(answers: Sequence[Tensor], places: Places) -> Tensor:
    """The cross-entropy of each cell with what the boxes say of it: the mean of an image's cells, summed over the maps.

    Nothing is asked of an image with a fracture that nobody drew: it may be in any cell.

    Args:    answers: float32 logits, (B, h, w), one for each of `places.fractured`.
    Returns: float32, (B,).
    """
    counts = answers[0].new_tensor(_FRACTURED_COUNTS)
    of_maps = [
        F.binary_cross_entropy_with_logits(
            answer, (fractured >= _FRACTURED_FROM).float(), pos_weight=counts, reduction="none"
        ).mean(dim=(1, 2))
        for answer, fractured in zip(answers, places.fractured, strict=True)
    ]
    return torch.stack(of_maps).sum(0) * places.known
