"""Fractures, from a hairline to a displaced one with a fragment, in any direction.

A fracture is a plane in space: what is edge-on in one view is smeared in another.
"""

from dataclasses import dataclass

import numpy as np

from fracture_ml.core.records import Box
from fracture_ml.demo.drawing.attenuation import bone_shadow
from fracture_ml.demo.drawing.limbs import Limb, Site
from fracture_ml.demo.drawing.projection import Grid, Projection, pixels_of, project
from fracture_ml.demo.drawing.solids import SAMPLES, Bone, Tube


@dataclass(frozen=True, kw_only=True)
class Fracture:
    """One broken bone, in the bone's own frame: along the shaft, across it, and in depth."""

    bone: int
    along: float  # 0..1 of the shaft
    tilt: float  # tangent of the plane's lean: 0 transverse, 1 oblique, above 1.5 spiral
    azimuth: float  # radians: which way it leans
    gap_mm: float  # negative: the ends override
    step_mm: tuple[float, float]  # how far the far fragment lies beside the near one, across and in depth
    apex_mm: tuple[float, float]  # how far the broken ends have left the axis together: angulation
    incomplete: float  # 0 through and through; up to 1 where only one cortex is broken
    jagged_mm: float
    phase: float
    wedge_mm: float  # 0 without a butterfly fragment
    wedge_side: float
    bulge: float  # a buckled cortex


def break_bones(rng: np.random.Generator, limb: Limb, site: Site, place: float) -> tuple[Fracture, ...]:
    """From a hairline to a displaced fracture with a fragment, in any direction."""
    first = _break_bone(rng, limb.bones[site.bone], site.bone, place, grade=rng.random())
    second_grade = rng.random()
    shift = float(rng.uniform(-0.05, 0.05))
    both = rng.random() < 0.45
    if site.partner is None or not both:
        return (first,)
    partner = limb.bones[site.partner].shaft
    level = limb.bones[site.bone].shaft.point_at(place)[1]
    reach = partner.end[1] - partner.start[1]
    beside = float(np.clip((level - partner.start[1]) / reach + shift, 0.05, 0.95))
    return first, _break_bone(rng, limb.bones[site.partner], site.partner, beside, grade=second_grade)


def _break_bone(rng: np.random.Generator, bone: Bone, index: int, along: float, *, grade: float) -> Fracture:
    at = int(along * (SAMPLES - 1))
    width = float(bone.shaft.half_widths_mm[at].mean())
    azimuth, way, side = rng.uniform(0, 2 * np.pi), rng.uniform(0, 2 * np.pi), rng.choice([-1.0, 1.0])
    lean = rng.choice([rng.uniform(0, 0.25), rng.uniform(0.4, 1.1), rng.uniform(1.2, 2.0)], p=(0.4, 0.42, 0.18))
    step, apex, gap, incomplete, wedge, bulge = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    spread = rng.random(6)
    if grade < 0.08:  # hairline, often of one cortex; in some the cortex buckles
        gap = 0.07 + 0.07 * spread[0]
        incomplete = 1.0 if spread[1] < 0.5 else 0.0
        bulge = 0.16 if spread[2] < 0.4 else 0.0
    elif grade < 0.22:  # open but in place
        gap = 0.25 + 0.3 * spread[0]
        step = 0.1 + 0.3 * spread[1]
        apex = 0.3 * spread[2]
    else:  # displaced
        gap = 0.25 + 0.75 * spread[0]
        step = 0.8 + 1.5 * spread[1]
        apex = 0.2 + 0.9 * spread[2]
        wedge = 0.3 + 0.5 * spread[3] if spread[4] < 0.4 else 0.0
    return Fracture(
        bone=index,
        along=along,
        tilt=float(lean),
        azimuth=float(azimuth),
        gap_mm=gap * width,
        step_mm=(step * width * np.cos(way), step * width * np.sin(way)),
        apex_mm=(apex * width * np.cos(azimuth), apex * width * np.sin(azimuth)),
        incomplete=incomplete,
        jagged_mm=float(0.12 * width * (0.4 + spread[5])),
        phase=float(rng.uniform(0, 2 * np.pi)),
        wedge_mm=wedge * width,
        wedge_side=float(side),
        bulge=bulge,
    )


def broken_shadow(
    part: Tube,
    seen: Projection,
    shaft: Tube,
    spine: Projection,
    fracture: Fracture,
    x: np.ndarray,
    y: np.ndarray,
    grain: np.ndarray,
) -> np.ndarray:
    """The shadow of a broken bone: each fragment turned about its own joint, and its share of each ray."""
    at = int(fracture.along * (SAMPLES - 1))
    half_depth = float(np.abs(shaft.half_widths_mm[at] * spine.depth).max()) * 0.8
    half_width = float(np.hypot(*(shaft.half_widths_mm[at] * spine.lateral)))
    lean = np.array([np.cos(fracture.azimuth), np.sin(fracture.azimuth)])
    across_lean = fracture.tilt * float(lean @ spine.lateral)
    smear = max(half_depth * abs(fracture.tilt * float(lean @ spine.depth)), 0.25)
    step, apex = float(spine.lateral @ fracture.step_mm), float(spine.lateral @ fracture.apex_mm)
    bow = 4 * float(spine.lateral @ shaft.bow_mm) * fracture.along * (1 - fracture.along)
    middle = spine.origin + spine.along * (fracture.along * spine.length_mm) + spine.across * bow

    def fragment(aside_mm: float, joint: np.ndarray, lever_mm: float) -> tuple[np.ndarray, np.ndarray]:
        """Where the points were before this fragment was turned about `joint` until its end lay `aside_mm` aside."""
        angle = np.arcsin(np.clip(aside_mm / lever_mm, -0.5, 0.5))
        cosine, sine = np.cos(angle), np.sin(angle)
        dx, dy = x - joint[0], y - joint[1]
        return joint[0] + cosine * dx - sine * dy, joint[1] + sine * dx + cosine * dy

    def from_middle(px: np.ndarray, py: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distance along and across the shaft from the middle of the fracture, mm."""
        px, py = px - middle[0], py - middle[1]
        return px * spine.along[0] + py * spine.along[1], px * spine.across[0] + py * spine.across[1]

    def behind_plane(along: np.ndarray, aside: np.ndarray) -> np.ndarray:
        wave = aside * (2.6 / half_width)
        jagged = np.sin(2.1 * wave + fracture.phase) + 0.6 * np.sin(4.7 * wave + 2 * fracture.phase)
        return along - across_lean * aside - fracture.jagged_mm * jagged

    def gap(aside: np.ndarray) -> np.ndarray | float:
        if not fracture.incomplete:
            return fracture.gap_mm
        return fracture.gap_mm * np.clip(1.2 + fracture.wedge_side * aside * (1.6 / half_width), 0, 2)

    def wedge(along: np.ndarray, aside: np.ndarray) -> np.ndarray:
        inward = aside * fracture.wedge_side + 0.1 * half_width
        return np.clip((inward * 1.1 - np.abs(along)) / 0.6, 0, 1)

    near_lever = max(fracture.along * spine.length_mm, 2.5 * half_width)
    far_lever = max((1 - fracture.along) * spine.length_mm, 2.5 * half_width)
    near_joint = middle - spine.along * near_lever
    far_joint = middle + spine.along * far_lever
    total = np.zeros_like(x)
    for sign, joint, lever, moved in (
        (-1, near_joint, near_lever, apex - step / 2),
        (1, far_joint, far_lever, apex + step / 2),
    ):
        px, py = fragment(-sign * moved, joint, lever)
        along, aside = from_middle(px, py)
        if fracture.bulge:
            swell = 1 + fracture.bulge * np.exp(-((along / (0.35 * half_width)) ** 2))
            px = px - spine.across[0] * aside * (1 - 1 / swell)
            py = py - spine.across[1] * aside * (1 - 1 / swell)
        share = np.clip(0.5 + (sign * behind_plane(along, aside) - gap(aside) / 2) / (2 * smear), 0, 1)
        if fracture.wedge_mm:
            share *= 1 - wedge(along, aside)
        total += share * bone_shadow(part, seen, px, py, grain)
    if fracture.wedge_mm:
        out = spine.across * fracture.wedge_side * fracture.wedge_mm + spine.across * apex
        px, py = x - out[0], y - out[1]
        px, py = (
            middle[0] + (px - middle[0]) - 0.2 * (py - middle[1]),
            middle[1] + (py - middle[1]) + 0.2 * (px - middle[0]),
        )
        along, aside = from_middle(px, py)
        total += wedge(along, aside) * bone_shadow(part, seen, px, py, grain)
    return total


def box_of(fracture: Fracture, shaft: Tube, degrees: float, grid: Grid) -> Box:
    """The rectangle around a fracture's broken ends, in pixels, cut at the image's edge."""
    seen = project(shaft, degrees)
    at = int(fracture.along * (SAMPLES - 1))
    half = float(np.hypot(*(shaft.half_widths_mm[at] * seen.lateral)))
    lean = fracture.tilt * np.array([np.cos(fracture.azimuth), np.sin(fracture.azimuth)])
    reach_t = 0.5 * half + abs(float(lean @ seen.lateral)) * half + abs(fracture.gap_mm)
    reach_s = 1.15 * half + 0.5 * abs(float(seen.lateral @ fracture.step_mm)) + fracture.wedge_mm
    bow = 4 * float(seen.lateral @ shaft.bow_mm) * fracture.along * (1 - fracture.along)
    aside = bow + float(seen.lateral @ fracture.apex_mm)
    middle = seen.origin + seen.along * (fracture.along * seen.length_mm) + seen.across * aside
    corners = [
        middle + seen.along * (sign_t * reach_t) + seen.across * (sign_s * reach_s)
        for sign_t in (-1, 1)
        for sign_s in (-1, 1)
    ]
    height, width = grid.x.shape
    places = pixels_of(np.array(corners), grid)
    left, top = np.clip(places.min(axis=0), 0, (width - 1, height - 1))
    right, bottom = np.clip(places.max(axis=0), 0, (width - 1, height - 1))
    return Box(
        x=round(float(left), 1),
        y=round(float(top), 1),
        width=round(float(max(right - left, 1)), 1),
        height=round(float(max(bottom - top, 1)), 1),
    )
