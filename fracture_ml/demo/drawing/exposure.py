"""From sum mu t to what the reader sees: scatter, quantum noise, the detector's blur, the reader's window."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from fracture_ml.demo.drawing.noise import enlarge


@dataclass(frozen=True, kw_only=True)
class Screen:
    """The machine and how its images are shown: one per study."""

    photons: float  # per pixel, in air
    scatter: float  # share of the mean primary
    heel: float
    blur_px: float
    edge_gain: float
    contrast: float
    lift: float  # how far above black the soft tissue is shown
    shutter: bool

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Screen":
        return cls(
            photons=float(np.exp(rng.uniform(np.log(800), np.log(5000)))),
            scatter=float(rng.uniform(0.08, 0.3)),
            heel=float(rng.uniform(0, 0.25)),
            blur_px=float(rng.uniform(0.45, 0.8)),
            edge_gain=float(rng.uniform(0.2, 0.9)),
            contrast=float(rng.uniform(0.9, 1.3)),
            lift=float(rng.uniform(0.05, 0.3)),
            shutter=bool(rng.random() < 0.5),
        )


def expose(
    rng: np.random.Generator, depth: np.ndarray, metal: np.ndarray, body: np.ndarray, screen: Screen
) -> np.ndarray:
    """From sum mu t to what the reader sees, uint8 (H, W): primary, scatter, quanta, blur, logarithm, window."""
    height, width = depth.shape
    primary = np.exp(-depth - metal)
    tilt = rng.uniform(-1, 1, 2)
    rows = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None]
    columns = np.linspace(-0.5, 0.5, width, dtype=np.float32)
    primary *= 1 + np.float32(screen.heel) * (np.float32(tilt[0]) * rows + np.float32(tilt[1]) * columns)
    shrunk = primary[::8, ::8] * (1 - np.exp(-0.25 * body[::8, ::8]))
    haze = gaussian_filter(shrunk, 5, mode="nearest")
    detected = gaussian_filter(primary, screen.blur_px) + 2 * screen.scatter * enlarge(haze, depth.shape)
    quanta = rng.poisson(detected * screen.photons).astype(np.float32)
    quanta = gaussian_filter(quanta, 0.4)
    signal = -np.log((quanta + 1) / screen.photons)
    signal += screen.edge_gain * (signal - enlarge(gaussian_filter(signal[::4, ::4], 4), depth.shape))
    # The window is the limb's: neither air nor metal decides it.
    limb = (body[::3, ::3] > 0.3) & (metal[::3, ::3] < 0.1)
    low, high = np.percentile(signal[::3, ::3][limb], (2, 99))
    low -= screen.lift * (high - low)
    shown = np.clip((signal - low) / (high - low) / 1.05, 0, 1)
    shown = shown**screen.contrast
    if screen.shutter:
        shown *= _shutter(rng, depth.shape)
    return (255 * shown + 0.5).astype(np.uint8)


def _shutter(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """The collimator's black border on some sides, a little crooked; 0..1, float32 (H, W)."""
    rows = np.linspace(0, 1, shape[0], dtype=np.float32)[:, None]
    columns = np.linspace(0, 1, shape[1], dtype=np.float32)
    crooked = np.float32(rng.uniform(-0.03, 0.03))
    sides = rng.uniform(-0.06, 0.06, 4).astype(np.float32)
    across, along = columns + crooked * rows, rows - crooked * columns
    distances = (across - sides[0], 1 - across - sides[1], along - sides[2], 1 - along - sides[3])
    border = np.minimum(np.minimum(distances[0], distances[1]), np.minimum(distances[2], distances[3]))
    return np.clip(border * (shape[1] / 2), 0, 1)
