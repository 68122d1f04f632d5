"""Bones and soft tissue as solids: elliptical tubes in space, in millimetres.

Axes: x runs across the limb, y along it (away from the trunk), z from front to back. Lengths are an adult's, times
`scale`.
"""

from dataclasses import dataclass, field

import numpy as np

SAMPLES = 384  # along each tube
CHILD_SCALE = 0.8  # bones below this scale still grow


@dataclass(frozen=True, kw_only=True)
class Tube:
    """A straight or bowed tube with an elliptical section that changes along it.

    `half_widths_mm` is float32 (SAMPLES, 2), across (x) and in depth (z); `cortex_mm`, `spongy` (0 marrow .. 1
    trabecular bone) and `density` (a factor on the bone: below 1 in a growth plate) are float32 (SAMPLES,).
    """

    start: np.ndarray  # (3,) mm
    end: np.ndarray  # (3,) mm
    half_widths_mm: np.ndarray
    cortex_mm: np.ndarray
    spongy: np.ndarray
    density: np.ndarray
    bow_mm: tuple[float, float] = (0.0, 0.0)

    @property
    def length_mm(self) -> float:
        return float(np.linalg.norm(self.end - self.start))

    def point_at(self, along: float) -> np.ndarray:
        """The axis at `along` (0 start .. 1 end), (3,) mm, without the bow."""
        return self.start + along * (self.end - self.start)


@dataclass(frozen=True, kw_only=True)
class Bone:
    """One bone: the shaft first, then what grows out of it (condyles, a head, a malleolus)."""

    name: str
    parts: tuple[Tube, ...]

    @property
    def shaft(self) -> Tube:
        return self.parts[0]


@dataclass(frozen=True, kw_only=True)
class Build:
    """What varies from person to person and decides a limb."""

    rng: np.random.Generator
    scale: float
    cortex: float
    fat: float
    lateral: bool  # joints are bent for a lateral view
    growing: bool = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "growing", self.scale < CHILD_SCALE)

    def vary(self, share: float = 0.06) -> float:
        """A factor about 1."""
        return float(1 + share * np.clip(self.rng.standard_normal(), -2, 2))


def tube(
    build: Build,
    start: tuple[float, float, float],
    end: tuple[float, float, float],
    shaft: tuple[float, float],
    head: tuple[float, float, float, float],
    foot: tuple[float, float, float, float],
    *,
    cortex: float = 3.0,
    bow: tuple[float, float] = (0.0, 0.0),
    plates: tuple[bool, bool] = (True, True),
) -> Tube:
    """A long bone: half widths of the shaft, and at each end half widths, length of the flare and of the rounding."""
    scale = build.scale
    first, last = np.array(start, float) * scale, np.array(end, float) * scale
    length = float(np.linalg.norm(last - first))
    along = np.linspace(0, length, SAMPLES)
    widths = np.empty((SAMPLES, 2))
    bulk = build.vary(0.08) * scale
    widths[:] = np.array(shaft) * bulk
    ends = np.zeros(SAMPLES)
    caps = np.ones(SAMPLES)
    density = np.ones(SAMPLES)
    for distance, (across, deep, flare, cap), has_plate in (
        (along, head, plates[0]),
        (length - along, foot, plates[1]),
    ):
        near = np.exp(-((distance / (flare * scale)) ** 1.6))
        widths += near[:, None] * (np.array((across, deep)) - np.array(shaft)) * scale
        ends = np.maximum(ends, np.exp(-((distance / (1.5 * flare * scale)) ** 2)))
        inward = np.clip(distance / (cap * scale), 0, 1)
        caps *= (1 - (1 - inward) ** 2.4) ** (1 / 2.4)
        if build.growing and has_plate:
            at = (0.55 * flare + cap) * scale * build.vary(0.2)
            density *= 1 - 0.75 * np.exp(-(((distance - at) / (0.9 + 0.6 * build.rng.random())) ** 2))
            density += 0.12 * np.exp(-(((distance - at - 2.6) / 1.2) ** 2))
    widths *= caps[:, None]
    shell = cortex * scale * build.cortex * (1 - 0.78 * ends)
    return Tube(
        start=first,
        end=last,
        half_widths_mm=widths.astype(np.float32),
        cortex_mm=shell.astype(np.float32),
        spongy=(0.08 + 0.92 * ends).astype(np.float32),
        density=density.astype(np.float32),
        bow_mm=(bow[0] * scale, bow[1] * scale),
    )


def ball(
    build: Build, centre: tuple[float, float, float], radii: tuple[float, float, float], tilt: float = 0.0
) -> Tube:
    """A short bone or a head: an ellipsoid whose long axis leans by `tilt` degrees in the plane of x and y."""
    middle = np.array(centre, float) * build.scale
    across, along, deep = (radius * build.scale * build.vary(0.05) for radius in radii)
    axis = np.array([np.sin(np.radians(tilt)), np.cos(np.radians(tilt)), 0.0]) * along
    round_off = np.sqrt(np.clip(1 - np.linspace(-1, 1, SAMPLES) ** 2, 0, 1)) ** 0.8
    return Tube(
        start=middle - axis,
        end=middle + axis,
        half_widths_mm=(round_off[:, None] * np.array((across, deep))).astype(np.float32),
        cortex_mm=np.full(SAMPLES, 0.9 * build.scale * build.cortex, np.float32),
        spongy=np.ones(SAMPLES, np.float32),
        density=np.ones(SAMPLES, np.float32),
    )


def flesh(
    build: Build, start: tuple[float, float, float], end: tuple[float, float, float], *sections: tuple[float, float]
) -> Tube:
    """Soft tissue: half widths at evenly spaced sections from start to end, rounded where the last is zero."""
    knots = np.array(sections, float) * build.scale * build.fat
    places = np.linspace(0, 1, len(sections))
    along = np.linspace(0, 1, SAMPLES)
    widths = np.stack([np.interp(along, places, knots[:, axis]) for axis in (0, 1)], axis=1)
    smooth = np.hanning(61) / np.hanning(61).sum()
    widths = np.stack([np.convolve(np.pad(widths[:, axis], 30, "edge"), smooth, "valid") for axis in (0, 1)], axis=1)
    rounding = np.clip(np.minimum(along, 1 - along) / 0.1, 0, 1)
    widths *= np.sqrt(1 - (1 - rounding) ** 2)[:, None]
    return Tube(
        start=np.array(start, float) * build.scale,
        end=np.array(end, float) * build.scale,
        half_widths_mm=widths.astype(np.float32),
        cortex_mm=np.zeros(SAMPLES, np.float32),
        spongy=np.zeros(SAMPLES, np.float32),
        density=np.ones(SAMPLES, np.float32),
    )


def bend(parts: tuple[Tube, ...], hinge_mm: tuple[float, float, float], degrees: float) -> tuple[Tube, ...]:
    """Turn parts about the x axis through `hinge_mm`: a joint that is bent."""
    angle = np.radians(degrees)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    hinge = np.array(hinge_mm, float)
    return tuple(
        Tube(
            start=hinge + turn @ (part.start - hinge),
            end=hinge + turn @ (part.end - hinge),
            half_widths_mm=part.half_widths_mm,
            cortex_mm=part.cortex_mm,
            spongy=part.spongy,
            density=part.density,
            bow_mm=part.bow_mm,
        )
        for part in parts
    )
