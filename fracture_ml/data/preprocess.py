"""From 8-bit letterboxed radiographs to the network's input."""

import numpy as np
import torch

from fracture_ml.core.errors import NotARadiograph, NotEnoughData
from fracture_ml.core.recipe import PreprocessSpec

_ROWS_AT_ONCE = 256


def to_model_input(pixels: torch.Tensor, spec: PreprocessSpec) -> torch.Tensor:
    """Scale 8-bit radiographs to what the network was trained on.

    Args:    pixels: uint8, (B, 1, S, S) with S = spec.image_size_px, 0 = black, bone bright (MONOCHROME2).
    Returns: float32, (B, 1, S, S), about zero mean and unit variance over the training split, on the same device.
    Raises:  NotARadiograph: wrong dtype, channel count or size; never silently converted.
    """
    size_px = spec.image_size_px
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or tuple(pixels.shape[1:]) != (1, size_px, size_px):
        raise NotARadiograph(
            f"pixels must be uint8 of shape (B, 1, {size_px}, {size_px}), not {pixels.dtype} of {tuple(pixels.shape)}"
        )
    return (pixels.float() - 255.0 * spec.mean) / (255.0 * spec.std)


def measure_spec(pixels: torch.Tensor | np.ndarray, rows: np.ndarray) -> PreprocessSpec:
    """Mean and standard deviation of the pixels of `rows`, exact (from a histogram), on a scale of 0 to 1.

    Args:    pixels: uint8, (N, S, S). rows: int, (n,): the training rows alone, so that nothing leaks.
    Raises:  NotEnoughData: no rows, or every pixel has the same value.
    """
    pixels = torch.as_tensor(pixels)
    histogram = torch.zeros(256, dtype=torch.int64, device=pixels.device)
    for chunk in torch.as_tensor(np.ascontiguousarray(rows), device=pixels.device).split(_ROWS_AT_ONCE):
        histogram += torch.bincount(pixels[chunk].flatten(), minlength=256)
    counts = histogram.cpu().double()  # (256,)
    if (counts > 0).sum() < 2:
        raise NotEnoughData("The training radiographs have no pixels that differ: look at the images in the snapshot.")
    values = torch.arange(256, dtype=torch.float64) / 255.0
    mean = (counts @ values / counts.sum()).item()
    variance = (counts @ (values - mean) ** 2 / counts.sum()).item()
    return PreprocessSpec(image_size_px=pixels.shape[-1], mean=mean, std=variance**0.5)
