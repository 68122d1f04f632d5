"""Steel on or in a bone, whether or not anything is broken."""

from dataclasses import dataclass

import numpy as np

from fracture_ml.demo.drawing.limbs import Limb, Site
from fracture_ml.demo.drawing.projection import Grid, project
from fracture_ml.demo.drawing.solids import SAMPLES

MU_STEEL = 9.0  # 1/cm


@dataclass(frozen=True, kw_only=True)
class Implant:
    kind: str  # plate, nail or wires
    bone: int
    along: float
    azimuth: float
    seed: int


def choose_implants(rng: np.random.Generator, limb: Limb, site: Site, place: float) -> tuple[Implant, ...]:
    """Metal on a long bone near the middle of the image, whether or not anything is broken."""
    kind = str(rng.choice(["plate", "wires", "nail"], p=(0.5, 0.3, 0.2)))
    bone = site.partner if site.partner is not None and rng.random() < 0.5 else site.bone
    along = float(np.clip(place + rng.normal(0, 0.06), 0.1, 0.9))
    azimuth, seed = float(rng.uniform(0, 2 * np.pi)), int(rng.integers(2**32))
    if rng.random() >= 0.11:
        return ()
    return (Implant(kind=kind, bone=bone, along=along, azimuth=azimuth, seed=seed),)


def implant_shadow(implant: Implant, limb: Limb, degrees: float, grid: Grid) -> np.ndarray:
    """Steel: a plate with screws, a nail in the canal, or wires; sum mu t, float32 (H, W)."""
    rng = np.random.default_rng(implant.seed)
    shaft = limb.bones[implant.bone].shaft
    seen = project(shaft, degrees)
    half = shaft.half_widths_mm[int(implant.along * (SAMPLES - 1))]
    radius = float(half.mean())
    place = seen.origin + seen.along * (implant.along * seen.length_mm)
    x, y = grid.x - place[0], grid.y - place[1]
    t = x * seen.along[0] + y * seen.along[1]
    s = x * seen.across[0] + y * seen.across[1]
    soft = grid.spacing_mm
    facing = np.array([np.cos(implant.azimuth), np.sin(implant.azimuth)])
    sideways, frontways = float(facing @ seen.lateral), float(facing @ seen.depth)

    def rod(at_t: float, from_s: float, to_s: float, lean: float, wide: float) -> np.ndarray:
        """A cylinder's chord: from side to side at `at_t`, leaning."""
        across = np.abs(t - at_t - lean * s) / wide
        inside = np.clip((s - from_s) / soft, 0, 1) * np.clip((to_s - s) / soft, 0, 1)
        return 2 * wide * np.sqrt(np.clip(1 - across * across, 0, 1)) * inside

    metal = np.zeros_like(grid.x)
    if implant.kind == "nail":
        wide = 0.42 * radius
        ends = np.clip((0.55 * seen.length_mm - np.abs(t)) / soft, 0, 1)
        metal = 2 * wide * np.sqrt(np.clip(1 - (s / wide) ** 2, 0, 1)) * ends
        metal = np.maximum(metal, rod(float(rng.uniform(2, 5)) * radius, -1.3 * radius, 1.3 * radius, 0, 0.2 * radius))
    elif implant.kind == "wires":
        for _ in range(int(rng.integers(2, 4))):
            lean, reach = rng.uniform(0.4, 1.4) * rng.choice([-1, 1]), rng.uniform(1.6, 3.0) * radius
            shift = rng.uniform(-1.5, 1.5) * radius
            metal = np.maximum(metal, rod(shift, -reach, reach, float(lean), max(0.7, 0.09 * radius)))
    else:
        length, thick = float(rng.uniform(5, 8)) * radius, 0.22 * radius
        broad = 0.62 * radius
        centre = sideways * (float(np.hypot(*(half * seen.lateral))) + thick / 2)
        half_seen = abs(frontways) * broad + abs(sideways) * thick / 2
        seen_depth = min(2 * broad, thick / max(abs(frontways), 0.1))
        edge = np.clip((half_seen - np.abs(s - centre)) / soft, 0, 1) * np.clip((length / 2 - np.abs(t)) / soft, 0, 1)
        metal = edge * seen_depth
        holes = int(rng.integers(4, 8))
        for at in np.linspace(-0.42, 0.42, holes) * length:
            ends = sorted((centre, centre - np.sign(sideways) * (2.3 * radius * abs(sideways) + 0.3 * radius)))
            metal = np.maximum(metal, rod(float(at), ends[0], ends[1], 0.0, 0.17 * radius))
            head = np.hypot(t - at, (s - centre) / max(abs(frontways), 0.35)) < 0.36 * radius
            metal = np.maximum(metal, head * (2.2 * radius * abs(frontways) + thick))
    return (0.1 * MU_STEEL * metal).astype(np.float32)
