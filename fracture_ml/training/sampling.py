"""Which image comes when."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from fracture_ml.core.recipe import TrainRecipe


def shuffled_batches(
    rows: np.ndarray, labels: np.ndarray, recipe: TrainRecipe, order: torch.Generator
) -> Iterator[Tensor]:
    """The row numbers of one epoch, int64, (B,) at a time.

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
    yield from candidates[drawn].split(batch_sizes(len(candidates), recipe.batch_size))


def batch_sizes(images: int, batch_size: int) -> list[int]:
    """Batches of nearly equal size, none above `batch_size`: no small remainder that batch norm would stumble over."""
    batches = max(1, min(math.ceil(images / batch_size), images // 2))
    return [images // batches + (number < images % batches) for number in range(batches)]
