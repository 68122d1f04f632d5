"""Drawn radiographs: X-rays through a limb made of elliptical tubes, onto a detector, onto a screen.

The rays are parallel. Along each, Beer and Lambert: I = I0 exp(-sum mu t), where the lengths t through soft tissue,
cortical shell, spongy bone and marrow are chords of ellipses, known in closed form. Attenuation coefficients are those
of about 60 keV (NIST, Hubbell and Seltzer), in 1/cm. Scatter, quantum noise, the detector's blur and the reader's
window follow. A fracture is a plane in space: what is edge-on in one view is smeared in another.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter

from fracture_ml.core.errors import FractureError
from fracture_ml.core.records import BodyPart, Box
from fracture_ml.demo.anatomy import LIMBS, SAMPLES, Bone, Build, Limb, Site, Tube

MU_SOFT, MU_FAT, MU_MARROW, MU_SPONGY, MU_CORTEX = 0.205, 0.185, 0.195, 0.34, 0.60
MU_STEEL, MU_PLASTER, MU_LEAD = 9.0, 0.30, 50.0
DRAWN_BODY_PARTS = tuple(LIMBS)
LONG_SIDES_PX = (320, 360, 400, 448, 512)


class NotDrawable(FractureError):
    """A body part or number of views that the drawing does not know."""


@dataclass(frozen=True, kw_only=True)
class DrawnRadiograph:
    """One image of a drawn study. `pixels` is uint8 (H, W), 0 = black, bone bright (MONOCHROME2)."""

    pixels: np.ndarray
    view: str  # frontal, lateral or oblique
    laterality: str  # L or R
    body_part: BodyPart
    fractured: bool
    boxes: tuple[Box, ...]  # around each broken bone's fracture, in pixels
    hardware: bool
    cast: bool


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


@dataclass(frozen=True, kw_only=True)
class _Implant:
    kind: str  # plate, nail or wires
    bone: int
    along: float
    azimuth: float
    seed: int


@dataclass(frozen=True, kw_only=True)
class _Grid:
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


def draw_study(
    rng: np.random.Generator, *, body_part: BodyPart, fractured: bool, views: int, child: bool | None = None
) -> list[DrawnRadiograph]:
    """Draw one study of one limb: the same anatomy, hardware and fracture from `views` directions.

    A child's bones are smaller and have growth plates; None: one study in seven is a child's.

    Raises: NotDrawable: a body part that is not in DRAWN_BODY_PARTS, or not 1 to 3 views.
    """
    if body_part not in LIMBS or not 1 <= views <= 3:
        raise NotDrawable(
            f"{body_part} in {views} views cannot be drawn: choose 1 to 3 views of {', '.join(DRAWN_BODY_PARTS)}."
        )
    anatomy_seed = int(rng.integers(2**32))
    child = bool(rng.random() < 0.15) if child is None else child
    scale = float(rng.uniform(0.62, 0.78) if child else rng.uniform(0.9, 1.08))
    cortex, fat = float(rng.uniform(0.75, 1.2)), float(rng.uniform(0.88, 1.12))
    laterality = str(rng.choice(["L", "R"]))

    def limb_in(view: str) -> Limb:
        anatomy = np.random.default_rng(anatomy_seed)
        return LIMBS[body_part](Build(rng=anatomy, scale=scale, cortex=cortex, fat=fat, lateral=view == "lateral"))

    standing = limb_in("frontal")
    site = _choose_site(rng, standing)
    place = float(rng.uniform(site.from_along, site.to_along))
    # The same dice are thrown with and without a fracture, so that nothing else can depend on it.
    fractures = _break(rng, standing, site, place)
    implants = _choose_implants(rng, standing, site, place)
    cast = bool(rng.random() < 0.10)
    screen = _Screen.draw(rng)
    order = [name for name in ("frontal", "lateral", "oblique") if name in standing.views]
    names = order[:views] if views > 1 else [str(rng.choice(order, p=(0.5, 0.35, 0.15)))]
    return [
        _draw_view(
            rng,
            limb_in(view),
            view,
            site=site,
            place=place,
            fractures=fractures if fractured else (),
            implants=implants,
            cast=cast,
            screen=screen,
            laterality=laterality,
            body_part=body_part,
            scale=scale,
        )
        for view in names
    ]


# --- what is drawn --------------------------------------------------------------------------------


def _choose_site(rng: np.random.Generator, limb: Limb) -> Site:
    weights = np.array([site.weight for site in limb.sites])
    return limb.sites[int(rng.choice(len(limb.sites), p=weights / weights.sum()))]


def _break(rng: np.random.Generator, limb: Limb, site: Site, place: float) -> tuple[Fracture, ...]:
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


def _choose_implants(rng: np.random.Generator, limb: Limb, site: Site, place: float) -> tuple[_Implant, ...]:
    """Metal on a long bone near the middle of the image, whether or not anything is broken."""
    kind = str(rng.choice(["plate", "wires", "nail"], p=(0.5, 0.3, 0.2)))
    bone = site.partner if site.partner is not None and rng.random() < 0.5 else site.bone
    along = float(np.clip(place + rng.normal(0, 0.06), 0.1, 0.9))
    azimuth, seed = float(rng.uniform(0, 2 * np.pi)), int(rng.integers(2**32))
    if rng.random() >= 0.11:
        return ()
    return (_Implant(kind=kind, bone=bone, along=along, azimuth=azimuth, seed=seed),)


@dataclass(frozen=True, kw_only=True)
class _Screen:
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
    def draw(cls, rng: np.random.Generator) -> "_Screen":
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


# --- projection -----------------------------------------------------------------------------------


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


def _pixels_of(points_mm: np.ndarray, grid: _Grid) -> np.ndarray:
    """Column and row, (N, 2), of points in mm, (N, 2): x and y are affine in column and row."""
    height, width = grid.x.shape
    corner = np.array([grid.x[0, 0], grid.y[0, 0]], float)
    per_column = (np.array([grid.x[0, -1], grid.y[0, -1]]) - corner) / (width - 1)
    per_row = (np.array([grid.x[-1, 0], grid.y[-1, 0]]) - corner) / (height - 1)
    return np.linalg.solve(np.stack([per_column, per_row], axis=1), (np.atleast_2d(points_mm) - corner).T).T


def _window_around(points_mm: np.ndarray, reach_mm: float, grid: _Grid) -> tuple[slice, slice]:
    """The part of the image within `reach_mm` of the points' rectangle; empty outside the image."""
    height, width = grid.x.shape
    places, pad = _pixels_of(points_mm, grid), reach_mm / grid.spacing_mm + 2
    left, top = np.clip(np.floor(places.min(axis=0) - pad), 0, (width, height)).astype(int)
    right, bottom = np.clip(np.ceil(places.max(axis=0) + pad), 0, (width, height)).astype(int)
    return slice(top, bottom), slice(left, right)


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
    inside = 1 - aside_squared * table[0][index]
    np.maximum(inside, 0, out=inside)
    np.sqrt(inside, out=inside)
    inside *= table[1][index]
    return inside


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


def _draw_bone(
    total: np.ndarray, bone: Bone, fracture: Fracture | None, degrees: float, grid: _Grid, grain: np.ndarray
):
    """Add one bone's shadow to `total` in place."""
    margin = 0.0 if fracture is None else 12.0 + np.hypot(*fracture.step_mm) + np.hypot(*fracture.apex_mm)
    shadow = np.zeros_like(total)
    spine = project(bone.shaft, degrees)
    for part in bone.parts:
        seen = project(part, degrees)
        ends = np.stack([seen.origin, seen.origin + seen.along * seen.length_mm])
        reach = float(part.half_widths_mm.max()) + max(map(abs, part.bow_mm)) + margin
        window = _window_around(ends, reach, grid)
        x, y, local = grid.x[window], grid.y[window], grain[window]
        if not x.size:
            continue
        if fracture is None:
            piece = bone_shadow(part, seen, x, y, local)
        else:
            piece = _broken_shadow(part, seen, bone.shaft, spine, fracture, x, y, local)
        np.maximum(shadow[window], piece, out=shadow[window])
    total += shadow


def _broken_shadow(
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


def _thickness(tubes: tuple[Tube, ...], degrees: float, grid: _Grid, *, swell: float = 1.0, more_mm: float = 0.0):
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
    return _enlarge(union, grid.x.shape)


# --- one image ------------------------------------------------------------------------------------


def _draw_view(
    rng: np.random.Generator,
    limb: Limb,
    view: str,
    *,
    site: Site,
    place: float,
    fractures: tuple[Fracture, ...],
    implants: tuple[_Implant, ...],
    cast: bool,
    screen: _Screen,
    laterality: str,
    body_part: BodyPart,
    scale: float,
) -> DrawnRadiograph:
    degrees = limb.views[view] + float(np.clip(rng.normal(0, 5), -10, 10))
    grid = _cone(rng, limb, site, place, degrees, laterality, scale)
    shape = grid.x.shape
    tissue = _noise(rng, shape, 26)
    grain = _noise(rng, shape, 0.28 / grid.spacing_mm) * np.float32(0.3)

    body = _thickness(limb.soft, degrees, grid)
    muscle = _thickness(limb.soft, degrees, grid, swell=0.86)
    depth = MU_FAT * (body - muscle) + MU_SOFT * muscle * (1 + 0.03 * tissue)
    depth += _folds(rng, grid, body)
    if cast:
        plaster = _thickness(limb.soft, degrees, grid, swell=1.04, more_mm=2.0)
        plaster = _thickness(limb.soft, degrees, grid, swell=1.04, more_mm=float(rng.uniform(5, 8))) - plaster
        depth += MU_PLASTER * plaster * (1 + 0.05 * _noise(rng, shape, 0.8 / grid.spacing_mm))
    bones = np.zeros(shape, np.float32)
    broken = {fracture.bone: fracture for fracture in fractures}
    for index, bone in enumerate(limb.bones):
        _draw_bone(bones, bone, broken.get(index), degrees, grid, grain)
    _draw_canals(rng, bones, limb, site, place, degrees, grid)
    depth += np.maximum(bones, 0)
    metal = _marker(rng, shape, laterality)
    for implant in implants:
        metal += _implant_shadow(implant, limb, degrees, grid)
    pixels = _expose(rng, depth, metal, body, screen)
    boxes = tuple(_box_of(fracture, limb.bones[fracture.bone].shaft, degrees, grid) for fracture in fractures)
    return DrawnRadiograph(
        pixels=pixels,
        view=view,
        laterality=laterality,
        body_part=body_part,
        fractured=bool(fractures),
        boxes=boxes,
        hardware=bool(implants),
        cast=cast,
    )


def _cone(
    rng: np.random.Generator, limb: Limb, site: Site, place: float, degrees: float, laterality: str, scale: float
) -> _Grid:
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
    return _Grid(
        x=(np.float32(mirror) * across + np.float32(aim[0])).astype(np.float32),
        y=(along + np.float32(aim[1])).astype(np.float32),
        spacing_mm=spacing,
    )


def _enlarge(coarse: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A coarse float32 field at the full size (H, W)."""
    return np.asarray(Image.fromarray(coarse).resize((shape[1], shape[0]), Image.Resampling.BILINEAR))


def _noise(rng: np.random.Generator, shape: tuple[int, int], sigma_px: float) -> np.ndarray:
    """Smooth noise of unit variance, float32 (H, W); coarse fields are drawn small and enlarged."""
    shrink = max(1, int(sigma_px / 2))
    small = rng.standard_normal((shape[0] // shrink + 3, shape[1] // shrink + 3), dtype=np.float32)
    small = gaussian_filter(small, sigma_px / shrink, mode="wrap")
    small /= small.std() + 1e-6
    if shrink == 1:
        return small[: shape[0], : shape[1]]
    return _enlarge(small, shape)


def _folds(rng: np.random.Generator, grid: _Grid, body: np.ndarray) -> np.ndarray | float:
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


def _draw_canals(rng, bones: np.ndarray, limb: Limb, site: Site, place: float, degrees: float, grid: _Grid) -> None:
    """A nutrient canal: a thin dark line that runs obliquely through one cortex, and never through the bone."""
    if rng.random() >= 0.5:
        rng.random(3)
        return
    offset, side, lean = rng.random(3)
    shaft = limb.bones[site.bone].shaft
    seen = project(shaft, degrees)
    along = float(np.clip(place + 0.3 * (offset - 0.5), 0.2, 0.8))
    half = float(np.hypot(*(shaft.half_widths_mm[int(along * (SAMPLES - 1))] * seen.lateral)))
    centre = seen.origin + seen.along * (along * seen.length_mm)
    window = _window_around(centre, 2.5 * half, grid)
    x, y = grid.x[window] - centre[0], grid.y[window] - centre[1]
    t = x * seen.along[0] + y * seen.along[1]
    s = x * seen.across[0] + y * seen.across[1] - (0.55 if side < 0.5 else -0.55) * half
    slope = 0.12 + 0.2 * lean
    line = np.exp(-(((s - slope * t) / 0.45) ** 2) - ((t / (1.1 * half)) ** 4))
    bones[window] *= 1 - 0.3 * line


def _implant_shadow(implant: _Implant, limb: Limb, degrees: float, grid: _Grid) -> np.ndarray:
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


def _marker(rng: np.random.Generator, shape: tuple[int, int], laterality: str) -> np.ndarray:
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


def _expose(
    rng: np.random.Generator, depth: np.ndarray, metal: np.ndarray, body: np.ndarray, screen: _Screen
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
    detected = gaussian_filter(primary, screen.blur_px) + 2 * screen.scatter * _enlarge(haze, depth.shape)
    quanta = rng.poisson(detected * screen.photons).astype(np.float32)
    quanta = gaussian_filter(quanta, 0.4)
    signal = -np.log((quanta + 1) / screen.photons)
    signal += screen.edge_gain * (signal - _enlarge(gaussian_filter(signal[::4, ::4], 4), depth.shape))
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


def _box_of(fracture: Fracture, shaft: Tube, degrees: float, grid: _Grid) -> Box:
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
    places = _pixels_of(np.array(corners), grid)
    left, top = np.clip(places.min(axis=0), 0, (width - 1, height - 1))
    right, bottom = np.clip(places.max(axis=0), 0, (width - 1, height - 1))
    return Box(
        x=round(float(left), 1),
        y=round(float(top), 1),
        width=round(float(max(right - left, 1)), 1),
        height=round(float(max(bottom - top, 1)), 1),
    )
