"""Smooth random fields, and coarse fields at the full size."""

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], sigma_px: float) -> np.ndarray:
    """Smooth noise of unit variance, float32 (H, W); coarse fields are drawn small and enlarged."""
    shrink = max(1, int(sigma_px / 2))
    small = rng.standard_normal((shape[0] // shrink + 3, shape[1] // shrink + 3), dtype=np.float32)
    small = gaussian_filter(small, sigma_px / shrink, mode="wrap")
    small /= small.std() + 1e-6
    if shrink == 1:
        return small[: shape[0], : shape[1]]
    return enlarge(small, shape)


def enlarge(coarse: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A coarse float32 field at the full size (H, W)."""
    return np.asarray(Image.fromarray(coarse).resize((shape[1], shape[0]), Image.Resampling.BILINEAR))
