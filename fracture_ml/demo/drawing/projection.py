"""From the limb, in millimetres, to the detector's pixels. The rays are parallel."""

from dataclasses import dataclass

import numpy as np

from fracture_ml.demo.drawing.limbs import Limb, Site
from fracture_ml.demo.drawing.solids import Tube

LONG_SIDES_PX = (320, 360, 400, 448, 512)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Where the pixels are: x and y in mm of the limb, float32 (H, W); spacing in mm."""

    x: np.ndarray
    y: np.ndarray
    spacing_mm: float


@dataclass(frozen=True, kw_only=True)
class Projection:
    """A tube's axis in a view, and how its section is seen."""

    origin: np.ndarray  # (2,) mm, the start
    along: np.ndarray  # (2,) unit vector in the image
    across: np.ndarray  # (2,) unit vector in the image
    length_mm: float
    lateral: np.ndarray  # (2,) what a step across x and in z amounts to in the image
    depth: np.ndarray  # (2,) and along the ray
    slant: float  # sine of the angle between axis and ray


def project(tube: Tube, degrees: float) -> Projection:
    """See a tube after the limb has been turned about its long axis."""
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    start, end = turn @ tube.start, turn @ tube.end
    axis = (end - start) / np.linalg.norm(end - start)
    slant = float(max(np.hypot(axis[0], axis[1]), 0.3))
    along = axis[:2] / max(np.hypot(axis[0], axis[1]), 1e-6)
    across = np.array([along[1], -along[0]])
    own_axis = (tube.end - tube.start) / np.linalg.norm(tube.end - tube.start)
    sideways = np.array([1.0, 0, 0]) - own_axis[0] * own_axis
    sideways /= np.linalg.norm(sideways)
    frontways = np.cross(sideways, own_axis)
    sideways, frontways = turn @ sideways, turn @ frontways
    return Projection(
        origin=start[:2].astype(np.float32),
        along=along.astype(np.float32),
        across=across.astype(np.float32),
        length_mm=float(np.hypot(*(end - start)[:2])),
        lateral=np.array([sideways[:2] @ across, frontways[:2] @ across], np.float32),
        depth=np.array([sideways[2], frontways[2]], np.float32),
        slant=slant,
    )


def aim_cone(
    rng: np.random.Generator, limb: Limb, site: Site, place: float, degrees: float, laterality: str, scale: float
) -> Grid:
    """Aim at the region that was asked about, as a radiographer does: near the site, never exactly."""
    zoom = float(rng.uniform(0.85, 1.15)) * scale
    width_mm, height_mm = limb.field_mm[0] * zoom, limb.field_mm[1] * zoom
    width_mm *= float(rng.uniform(0.88, 1.15))
    long_px = int(rng.choice(LONG_SIDES_PX)) - int(rng.integers(0, 24))
    spacing = max(width_mm, height_mm) / long_px
    height, width = int(height_mm / spacing), int(width_mm / spacing)
    shaft = limb.bones[site.bone].shaft
    seen = project(shaft, degrees)
    aim = seen.origin + seen.along * (place * seen.length_mm)
    aim = aim + rng.uniform(-0.16, 0.16, 2) * (width_mm, height_mm)
    turn = np.radians(float(np.clip(rng.normal(0, 8), -18, 18)) + (180 if limb.distal_up else 0))
    columns = ((np.arange(width) - width / 2) * spacing).astype(np.float32)
    rows = ((np.arange(height) - height / 2) * spacing).astype(np.float32)[:, None]
    mirror = 1.0 if (laterality == "R") != limb.distal_up else -1.0
    cosine, sine = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    across = cosine * columns - sine * rows
    along = sine * columns + cosine * rows
    return Grid(
        x=(np.float32(mirror) * across + np.float32(aim[0])).astype(np.float32),
        y=(along + np.float32(aim[1])).astype(np.float32),
        spacing_mm=spacing,
    )


def pixels_of(points_mm: np.ndarray, grid: Grid) -> np.ndarray:
    """Column and row, (N, 2), of points in mm, (N, 2): x and y are affine in column and row."""
    height, width = grid.x.shape
    corner = np.array([grid.x[0, 0], grid.y[0, 0]], float)
    per_column = (np.array([grid.x[0, -1], grid.y[0, -1]]) - corner) / (width - 1)
    per_row = (np.array([grid.x[-1, 0], grid.y[-1, 0]]) - corner) / (height - 1)
    return np.linalg.solve(np.stack([per_column, per_row], axis=1), (np.atleast_2d(points_mm) - corner).T).T


def window_around(points_mm: np.ndarray, reach_mm: float, grid: Grid) -> tuple[slice, slice]:
    """The part of the image within `reach_mm` of the points' rectangle; empty outside the image."""
    height, width = grid.x.shape
    places, pad = pixels_of(points_mm, grid), reach_mm / grid.spacing_mm + 2
    left, top = np.clip(np.floor(places.min(axis=0) - pad), 0, (width, height)).astype(int)
    right, bottom = np.clip(np.ceil(places.max(axis=0) + pad), 0, (width, height)).astype(int)
    return slice(top, bottom), slice(left, right)
