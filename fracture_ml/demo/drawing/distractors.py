"""What looks like something and is nothing: the side marker, skin folds, nutrient canals."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fracture_ml.demo.drawing.limbs import Limb, Site
from fracture_ml.demo.drawing.projection import Grid, project, window_around
from fracture_ml.demo.drawing.solids import SAMPLES

MU_LEAD = 50.0  # 1/cm


def marker_shadow(rng: np.random.Generator, shape: tuple[int, int], laterality: str) -> np.ndarray:
    """A lead letter near an edge, a little crooked, sometimes in a ring; sum mu t, float32 (H, W)."""
    size = int(min(shape) * rng.uniform(0.07, 0.11))
    ring, tilt, corner = rng.random() < 0.35, rng.uniform(-25, 25), int(rng.integers(4))
    inset, missing = rng.uniform(0.04, 0.14, 2), rng.random() < 0.12
    tile = Image.new("L", (2 * size, 2 * size))
    pen = ImageDraw.Draw(tile)
    pen.text((size, size), laterality, fill=255, font=ImageFont.load_default(size), anchor="mm")
    if ring:
        pen.ellipse((0.22 * size, 0.22 * size, 1.78 * size, 1.78 * size), outline=255, width=max(1, size // 9))
    letter = np.asarray(tile.rotate(tilt, Image.Resampling.BILINEAR), np.float32) / 255
    shadow = np.zeros(shape, np.float32)
    if missing:
        return shadow
    top = int(inset[0] * shape[0]) if corner < 2 else int((1 - inset[0]) * shape[0]) - 2 * size
    left = int(inset[1] * shape[1]) if corner % 2 else int((1 - inset[1]) * shape[1]) - 2 * size
    shadow[top : top + 2 * size, left : left + 2 * size] = letter * (0.1 * MU_LEAD)
    return shadow


def skin_folds(rng: np.random.Generator, grid: Grid, body: np.ndarray) -> np.ndarray | float:
    """Skin folds: now and then a faint curved line of more or less tissue, across bone and flesh alike."""
    count = int(rng.random() < 0.25) + int(rng.random() < 0.1)
    total: np.ndarray | float = 0.0
    for _ in range(count):
        angle, bend, offset = rng.uniform(-0.6, 0.6), rng.uniform(-0.004, 0.004), rng.uniform(-40, 40)
        sign, width = rng.choice([-1.0, 1.0]), rng.uniform(0.5, 1.2)
        y, x = grid.y - grid.y.mean() - offset, grid.x - grid.x.mean()
        distance = np.abs(y + angle * x + bend * x * x) / width
        total = total + sign * 0.028 * np.exp(-distance) * (body > 0)
    return total


def draw_canal(
    rng: np.random.Generator, bones: np.ndarray, limb: Limb, site: Site, place: float, degrees: float, grid: Grid
) -> None:
    """Draw a nutrient canal in place: a thin dark line, obliquely through one cortex, never through the bone."""
    if rng.random() >= 0.5:
        rng.random(3)
        return
    offset, side, lean = rng.random(3)
    shaft = limb.bones[site.bone].shaft
    seen = project(shaft, degrees)
    along = float(np.clip(place + 0.3 * (offset - 0.5), 0.2, 0.8))
    half = float(np.hypot(*(shaft.half_widths_mm[int(along * (SAMPLES - 1))] * seen.lateral)))
    centre = seen.origin + seen.along * (along * seen.length_mm)
    window = window_around(centre, 2.5 * half, grid)
    x, y = grid.x[window] - centre[0], grid.y[window] - centre[1]
    t = x * seen.along[0] + y * seen.along[1]
    s = x * seen.across[0] + y * seen.across[1] - (0.55 if side < 0.5 else -0.55) * half
    slope = 0.12 + 0.2 * lean
    line = np.exp(-(((s - slope * t) / 0.45) ** 2) - ((t / (1.1 * half)) ** 4))
    bones[window] *= 1 - 0.3 * line
