"""Beer and Lambert: I = I0 exp(-sum mu t), where the lengths t are chords of ellipses, known in closed form.

Attenuation coefficients are those of about 60 keV (NIST, Hubbell and Seltzer), in 1/cm.
"""

import numpy as np

from fracture_ml.demo.drawing.noise import enlarge
from fracture_ml.demo.drawing.projection import Grid, Projection, project
from fracture_ml.demo.drawing.solids import SAMPLES, Tube

MU_SOFT, MU_FAT, MU_MARROW, MU_SPONGY, MU_CORTEX = 0.205, 0.185, 0.195, 0.34, 0.60


def bone_shadow(tube: Tube, seen: Projection, x: np.ndarray, y: np.ndarray, grain: np.ndarray) -> np.ndarray:
    """sum mu t of one tube of bone at the points (x, y) mm, above the soft tissue that it displaces; dimensionless."""
    x, y = x - seen.origin[0], y - seen.origin[1]
    at = (x * seen.along[0] + y * seen.along[1]) * ((SAMPLES - 1) / seen.length_mm)
    aside = x * seen.across[0] + y * seen.across[1]
    index = np.clip(at, 0, SAMPLES - 1).astype(np.intp)
    bow = float(seen.lateral @ tube.bow_mm)
    if bow:
        share = np.linspace(0, 1, SAMPLES, dtype=np.float32)
        aside = aside - (4 * bow * share * (1 - share))[index]
    aside *= aside
    table = _sections(tube, seen)
    whole = _chord(table[:2], index, aside)
    core = _chord(table[2:], index, aside)
    mu_core = MU_MARROW + (MU_SPONGY - MU_MARROW) * tube.spongy
    shadow = (whole - core) * (MU_CORTEX - MU_SOFT)
    core *= (mu_core - MU_SOFT).astype(np.float32)[index]
    core *= 1 + 0.5 * grain
    shadow += core
    shadow *= (0.1 * tube.density)[index]  # mm -> cm
    return shadow


def _sections(tube: Tube, seen: Projection) -> np.ndarray:
    """Per sample along the tube: 1/w^2 and depth of the outer ellipse, then of the inner; float32 (4, SAMPLES).

    An ellipse with half axes a, b whose x axis appears with direction cosine c has the half width
    w = sqrt(a^2 c^2 + b^2 (1 - c^2)) and, at the distance s from its middle, the chord (2ab / w) sqrt(1 - s^2/w^2).
    """
    outer = tube.half_widths_mm
    step = tube.length_mm / SAMPLES
    reach = max(1, round(float(tube.cortex_mm.min()) / step))
    padded = np.pad(outer, ((reach, reach), (0, 0)))
    inner = np.minimum(padded[: -2 * reach], padded[2 * reach :]) - tube.cortex_mm[:, None]
    table = np.empty((4, SAMPLES), np.float32)
    for row, widths in ((0, outer), (2, np.maximum(inner, 0.0))):
        seen_half = np.sqrt((widths[:, 0] * seen.lateral[0]) ** 2 + (widths[:, 1] * seen.lateral[1]) ** 2)
        solid = seen_half > 0.05
        table[row] = np.where(solid, 1 / np.maximum(seen_half, 0.05) ** 2, 1e6)
        table[row + 1] = np.where(solid, 2 * widths[:, 0] * widths[:, 1] / np.maximum(seen_half, 0.05), 0) / seen.slant
    return table


def _chord(table: np.ndarray, index: np.ndarray, aside_squared: np.ndarray) -> np.ndarray:
    """Length of each ray in an ellipse; `table` is 1/w^2 and depth by sample, `index` the samples' numbers."""
    inside = 1 - aside_squared * table[0][index]
    np.maximum(inside, 0, out=inside)
    np.sqrt(inside, out=inside)
    inside *= table[1][index]
    return inside


def flesh_thickness(
    tubes: tuple[Tube, ...], degrees: float, grid: Grid, *, swell: float = 1.0, more_mm: float = 0.0
) -> np.ndarray:
    """Chord through the union of soft-tissue tubes, cm, float32 (H, W)."""
    coarse_x, coarse_y = grid.x[::3, ::3], grid.y[::3, ::3]
    union = np.zeros_like(coarse_x)
    for tube in tubes:
        seen = project(tube, degrees)
        x, y = coarse_x - seen.origin[0], coarse_y - seen.origin[1]
        at = (x * seen.along[0] + y * seen.along[1]) * ((SAMPLES - 1) / seen.length_mm)
        aside = x * seen.across[0] + y * seen.across[1]
        inside = (at >= 0) & (at <= SAMPLES - 1)
        index = np.clip(at, 0, SAMPLES - 1).astype(np.intp)
        widths = tube.half_widths_mm * swell + more_mm
        half = np.sqrt((widths[:, 0] * seen.lateral[0]) ** 2 + (widths[:, 1] * seen.lateral[1]) ** 2)
        table = np.stack([1 / np.maximum(half, 0.1) ** 2, 0.2 * widths[:, 0] * widths[:, 1] / np.maximum(half, 0.1)])
        chord = _chord(table.astype(np.float32), index, aside * aside)
        chord *= inside
        union = chord if len(tubes) == 1 else union + chord**4
    union = union if len(tubes) == 1 else np.sqrt(np.sqrt(union))
    return enlarge(union, grid.x.shape)
