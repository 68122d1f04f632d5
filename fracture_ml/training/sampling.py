"""Which part of which image comes when: an epoch of whole images, or of crops."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fracture_ml.core.errors import NotEnoughData
from fracture_ml.core.recipe import TrainRecipe
from fracture_ml.data.boxes import WHOLE

_JITTER = 0.3  # of a crop's side: how far from its middle a fracture's centre may lie
_MARGIN = 0.25  # of a crop's side: how near to the edge of what is not black a crop's middle may lie


class Draw(NamedTuple):
    """One batch: rows, int64, (B,), and the middle of each view, float32, (B, 2), as shares of the square."""

    rows: Tensor
    centres: Tensor


def whole_images(rows: np.ndarray, labels: np.ndarray, recipe: TrainRecipe, order: torch.Generator) -> Iterator[Draw]:
    """One epoch of whole images.

    Balanced sampling draws as many rows with replacement, both classes equally often; else each row comes once.

    Args: rows: int, (n,). labels: 0 or 1, (N,).
    """
    candidates = torch.as_tensor(np.ascontiguousarray(rows, dtype=np.int64))
    if recipe.balance == "balanced_sampling":
        of_class = labels[rows]
        chances = torch.as_tensor(1.0 / np.bincount(of_class, minlength=2)[of_class])
        drawn = torch.multinomial(chances, len(candidates), replacement=True, generator=order)
    else:
        drawn = torch.randperm(len(candidates), generator=order)
    for batch in candidates[drawn].split(batch_sizes(len(candidates), recipe.batch_size)):
        yield Draw(batch, torch.full((len(batch), 2), 0.5))


class Crops:
    """Crops of the training rows: some around a drawn fracture, the others anywhere on what is not black.

    An image with a fracture that nobody drew gives none: nobody knows which of its crops show it.
    """

    def __init__(self, rows: np.ndarray, boxes: np.ndarray, content: np.ndarray, recipe: TrainRecipe) -> None:
        """Args: rows: int, (n,). boxes: (N, K, 4). content: (n, 4), left, top, right, bottom of what is not black.

        Raises: NotEnoughData: nobody drew a fracture on any of the rows.
        """
        known = _are_drawn(boxes[rows]) | (boxes[rows] == 0).all(axis=(1, 2))
        rows, content = rows[known], content[known]
        self._rows = torch.as_tensor(rows, dtype=torch.int64)
        self._batch_sizes = batch_sizes(len(rows) * recipe.crops_per_image, recipe.batch_size)
        self._share = recipe.fractured_crops
        self._extent = recipe.crop_px / recipe.image_size_px
        margin = np.minimum(_MARGIN * self._extent, (content[:, 2:] - content[:, :2]) / 2)  # (n, 2)
        self._low = torch.as_tensor(content[:, :2] + margin)  # (n, 2), where a crop's middle may lie
        self._high = torch.as_tensor(content[:, 2:] - margin)
        place, box = np.nonzero(boxes[rows].any(axis=2))
        if not len(place):
            raise NotEnoughData(
                "No label says where a fracture is, and crops need to know: train on whole images (crop_px=0), or add "
                "labels with boxes."
            )
        self._fractured = self._rows[place]  # (m,), a row for each drawn fracture
        drawn = boxes[rows][place, box]  # (m, 4)
        self._middles = torch.as_tensor((drawn[:, :2] + drawn[:, 2:]) / 2)  # (m, 2)

    @property
    def batches(self) -> int:
        """Of an epoch."""
        return len(self._batch_sizes)

    def epoch(self, order: torch.Generator) -> Iterator[Draw]:
        """One epoch: `crops_per_image` times as many crops as there are images, drawn anew."""
        crops = sum(self._batch_sizes)
        chance = torch.rand(crops, generator=order)
        spread = torch.rand(crops, 2, generator=order)
        anywhere = torch.randint(len(self._rows), (crops,), generator=order)
        fracture = torch.randint(len(self._fractured), (crops,), generator=order)
        around = chance < self._share  # (crops,)
        rows = torch.where(around, self._fractured[fracture], self._rows[anywhere])
        near = self._middles[fracture] + (2 * spread - 1) * _JITTER * self._extent
        far = self._low[anywhere] + spread * (self._high[anywhere] - self._low[anywhere])
        centres = torch.where(around.unsqueeze(1), near, far).float()
        yield from map(Draw, rows.split(self._batch_sizes), centres.split(self._batch_sizes))


def batch_sizes(views: int, batch_size: int) -> list[int]:
    """Batches of nearly equal size, none above `batch_size`: no small remainder that batch norm would stumble over."""
    batches = max(1, min(math.ceil(views / batch_size), views // 2))
    return [views // batches + (number < views % batches) for number in range(batches)]


def _are_drawn(boxes: np.ndarray) -> np.ndarray:
    """bool, (n,): images with a box that is a fracture's place. Args: boxes: (n, K, 4)."""
    return boxes.any(axis=(1, 2)) & ~(boxes == np.array(WHOLE, dtype=boxes.dtype)).all(axis=2).any(axis=1)
