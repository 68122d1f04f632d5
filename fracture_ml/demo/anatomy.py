"""Limbs as solids: bones and soft tissue are elliptical tubes in space, in millimetres.

Axes: x runs across the limb, y along it (away from the trunk), z from front to back. A view looks along z after the
limb has been turned about y. Lengths are an adult's, times `scale`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from fracture_ml.core.records import BodyPart

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
class Site:
    """Where a fracture may be: a stretch of one bone's shaft."""

    bone: int
    from_along: float
    to_along: float
    weight: float = 1.0
    partner: int | None = None  # the bone that often breaks with it


@dataclass(frozen=True, kw_only=True)
class Limb:
    bones: tuple[Bone, ...]
    soft: tuple[Tube, ...]
    sites: tuple[Site, ...]
    field_mm: tuple[float, float]  # the usual cone: width, height
    views: dict[str, float]  # name -> degrees about the long axis
    distal_up: bool = False


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


def _bent(bones: list[Bone], hinge_mm: tuple[float, float, float], degrees: float) -> list[Bone]:
    return [Bone(name=bone.name, parts=bend(bone.parts, hinge_mm, degrees)) for bone in bones]


# --- the bones ------------------------------------------------------------------------------------


def _radius(build: Build) -> Bone:
    head, foot = (10.5, 10.5, 13, 3), (16, 10.5, 26, 5)
    shaft = tube(build, (13, 12, 2), (13, 245, 0), (6.2, 5.8), head, foot, cortex=2.6, bow=(5 * build.vary(0.3), 2))
    return Bone(name="radius", parts=(shaft,))


def _ulna(build: Build) -> Bone:
    head, foot = (10, 13, 34, 9), (8, 8, 13, 4)
    shaft = tube(build, (-8, -14, -4), (-12, 241, -3), (5.8, 6.2), head, foot, cortex=2.6, bow=(-2, -3))
    styloid = ball(build, (-16, 243, -3), (2.6, 6, 2.6))
    return Bone(name="ulna", parts=(shaft, styloid))


def _humerus(build: Build) -> Bone:
    shaft = tube(build, (0, -300, 0), (1, 2, 0), (11, 10.5), (21, 20, 40, 16), (19, 9, 30, 16), cortex=4.2, bow=(2, 4))
    return Bone(
        name="humerus",
        parts=(
            shaft,
            ball(build, (-9, -292, 0), (22, 22, 22)),
            ball(build, (13, -2, 4), (10, 10, 10)),
            ball(build, (-8, -1, 1), (12, 10, 11)),
            ball(build, (-22, -13, -1), (8, 11, 7), tilt=20),
            ball(build, (20, -12, 0), (6, 10, 6), tilt=-20),
        ),
    )


def _carpals(build: Build) -> list[Bone]:
    places = (
        ((12, 257, 2), (6.5, 11, 7), -35),
        ((0, 255, 0), (8, 7.5, 8), 0),
        ((-11, 258, -2), (6.5, 7, 7), 10),
        ((21, 270, 4), (8, 7.5, 8), -20),
        ((12, 272, 1), (5.5, 6.5, 7), 0),
        ((2, 273, 0), (7, 11.5, 8), 0),
        ((-10, 272, -1), (8, 9, 8), 12),
    )
    return [Bone(name="carpal", parts=(ball(build, *place[:2], tilt=place[2]),)) for place in places]


def _ray(
    build: Build,
    base: tuple[float, float, float],
    lean_degrees: float,
    lift_degrees: float,
    lengths: tuple[float, ...],
    width: float,
) -> list[Bone]:
    """A metacarpal or metatarsal and its phalanges, one behind the other."""
    lean, lift = np.radians(lean_degrees), np.radians(lift_degrees)
    bones = []
    place = np.array(base, float)
    for index, length in enumerate(lengths):
        direction = np.array([np.sin(lean) * np.cos(lift), np.cos(lean) * np.cos(lift), np.sin(lift)])
        slim = width * (1.0, 0.98, 0.86, 0.74)[index]
        tip = index == len(lengths) - 1
        shaft = tube(
            build,
            tuple(place),
            tuple(place + direction * length),
            (slim, slim * 0.9),
            (slim * 1.75, slim * 1.6, 0.17 * length, 0.07 * length),
            (slim * (1.15 if tip else 1.6), slim * (0.8 if tip else 1.45), 0.13 * length, 0.08 * length),
            cortex=0.42 * slim,
            bow=(0, -0.02 * length),
            plates=(index > 0, index == 0),
        )
        bones.append(Bone(name=("metatarsal" if index == 0 else "phalanx"), parts=(shaft,)))
        place = place + direction * (length + 2.0)
        lift = lift * 0.6
    return bones


def _femur(build: Build) -> Bone:
    shaft = tube(
        build, (0, -425, 0), (0, -2, 0), (14.5, 14.5), (17, 16, 60, 20), (37, 24, 52, 30), cortex=6.0, bow=(1, 9)
    )
    return Bone(
        name="femur",
        parts=(
            shaft,
            ball(build, (19, -22, -10), (19, 24, 29)),
            ball(build, (-19, -21, -10), (20, 25, 29)),
            ball(build, (-44, -436, 0), (24, 24, 24)),
            tube(build, (-44, -434, 0), (4, -392, 0), (14, 12), (17, 15, 12, 8), (19, 17, 16, 10), cortex=3),
            ball(build, (13, -412, -4), (15, 24, 17), tilt=-15),
        ),
    )


def _tibia(build: Build) -> Bone:
    shaft = tube(
        build, (0, 3, 0), (-2, 372, 0), (12.5, 13.5), (37, 25, 34, 10), (21, 18, 32, 6), cortex=4.8, bow=(2, 3)
    )
    return Bone(
        name="tibia", parts=(shaft, ball(build, (-20, 376, 0), (6.5, 14, 9)), ball(build, (0, 40, 20), (9, 16, 8)))
    )


def _fibula(build: Build) -> Bone:
    shaft = tube(
        build, (33, 22, -14), (26, 390, -8), (5.8, 6), (10, 10, 20, 6), (9, 11, 26, 10), cortex=2.5, bow=(2, -3)
    )
    return Bone(name="fibula", parts=(shaft,))


# --- the limbs ------------------------------------------------------------------------------------

_STANDARD_VIEWS = {"frontal": 0.0, "lateral": 90.0, "oblique": 45.0}
_FLAT_VIEWS = {"frontal": 0.0, "oblique": 35.0, "lateral": 72.0}  # hands and feet are fanned out for a lateral view


def _forearm_flesh(build: Build) -> Tube:
    return flesh(build, (2, -30, 0), (1, 300, 0), (44, 42), (47, 43), (41, 38), (33, 30), (29, 23), (34, 20))


def _forearm(build: Build) -> Limb:
    bones = (_radius(build), _ulna(build))
    sites = (
        Site(bone=0, from_along=0.30, to_along=0.78, weight=1.4, partner=1),
        Site(bone=1, from_along=0.30, to_along=0.80, partner=0),
    )
    return Limb(
        bones=bones,
        soft=(_forearm_flesh(build),),
        sites=sites,
        field_mm=(58, 76),
        views=_STANDARD_VIEWS,
        distal_up=True,
    )


def _wrist(build: Build) -> Limb:
    bones = [_radius(build), _ulna(build), *_carpals(build)]
    for base, lean in (((15, 284, 0), 6), ((4, 285, 0), 0), ((-7, 283, -1), -6), ((-16, 279, -2), -13)):
        bones += _ray(build, base, lean, 0, (62,), 4.4)
    bones += _ray(build, (27, 277, 9), 32, 12, (44, 30), 5.0)
    sites = (
        Site(bone=0, from_along=0.82, to_along=0.935, weight=3.0, partner=1),
        Site(bone=1, from_along=0.80, to_along=0.94, weight=0.8, partner=0),
    )
    palm = flesh(build, (3, 262, 0), (2, 380, 0), (30, 19), (41, 19), (45, 17), (42, 15))
    thumb = flesh(build, (22, 262, 6), (54, 330, 20), (14, 15), (14, 14), (11, 11))
    soft = (_forearm_flesh(build), palm, thumb)
    return Limb(bones=tuple(bones), soft=soft, sites=sites, field_mm=(62, 76), views=_STANDARD_VIEWS, distal_up=True)


def _hand(build: Build) -> Limb:
    """Two neighbouring rays, as for an injured finger."""
    first = int(build.rng.integers(0, 3))
    rays = (
        ((18, 0, 0), 7, (64, 41, 24, 17), 4.4),
        ((4, 1, 0), 1, (62, 45, 29, 18), 4.5),
        ((-8, -1, 0), -5, (56, 42, 27, 18), 4.1),
        ((-19, -5, 0), -12, (52, 34, 20, 16), 3.8),
    )
    bones: list[Bone] = []
    soft: list[Tube] = [flesh(build, (0, -30, 0), (0, 66, 0), (32, 17), (40, 16), (44, 14), (42, 11))]
    sites = []
    for order, (base, lean, lengths, width) in enumerate(rays):
        if not first <= order < first + 2:
            continue
        lift = (-14 + 16 * order) if build.lateral else 4
        at = len(bones)
        bones += _ray(build, base, lean, lift, lengths, width)
        tip = bones[-1].shaft.end / build.scale
        knuckle = bones[at].shaft.end / build.scale
        soft.append(
            flesh(build, tuple(knuckle), tuple(tip + (tip - knuckle) * 0.05), (11, 10), (9.5, 9), (9, 8), (7, 5))
        )
        sites += [
            Site(bone=at, from_along=0.25, to_along=0.8, weight=1.5),
            Site(bone=at + 1, from_along=0.2, to_along=0.78, weight=1.5),
            Site(bone=at + 2, from_along=0.25, to_along=0.7, weight=0.6),
        ]
    return Limb(
        bones=tuple(bones), soft=tuple(soft), sites=tuple(sites), field_mm=(38, 52), views=_FLAT_VIEWS, distal_up=True
    )


def _elbow(build: Build) -> Limb:
    lower = [_radius(build), _ulna(build)]
    flesh_below = (_forearm_flesh(build),)
    flexion = 70 * build.vary(0.1)
    if build.lateral:
        lower, flesh_below = _bent(lower, (0, 0, 0), flexion), bend(flesh_below, (0, 0, 0), flexion)
    soft = (flesh(build, (0, -320, 0), (0, 14, 0), (56, 54), (48, 50), (44, 42), (40, 34)), *flesh_below)
    sites = (
        Site(bone=0, from_along=0.83, to_along=0.94, weight=2.0),
        Site(bone=1, from_along=0.06, to_along=0.2),
        Site(bone=2, from_along=0.10, to_along=0.26),
    )
    return Limb(bones=(_humerus(build), *lower), soft=soft, sites=sites, field_mm=(84, 102), views=_STANDARD_VIEWS)


def _humerus_limb(build: Build) -> Limb:
    soft = (flesh(build, (0, -350, 0), (0, 20, 0), (60, 58), (58, 56), (50, 52), (46, 44), (42, 36)),)
    sites = (Site(bone=0, from_along=0.16, to_along=0.84),)
    return Limb(bones=(_humerus(build),), soft=soft, sites=sites, field_mm=(68, 90), views=_STANDARD_VIEWS)


def _femur_limb(build: Build) -> Limb:
    soft = (flesh(build, (0, -470, 0), (0, 30, 0), (95, 95), (92, 92), (84, 86), (72, 74), (60, 62)),)
    sites = (Site(bone=0, from_along=0.16, to_along=0.84),)
    return Limb(bones=(_femur(build),), soft=soft, sites=sites, field_mm=(92, 122), views=_STANDARD_VIEWS)


def _knee(build: Build) -> Limb:
    patella = Bone(name="patella", parts=(ball(build, (0, -24, 33), (21, 22, 10)),))
    lower = [_tibia(build), _fibula(build)]
    flesh_below = (flesh(build, (2, -10, -4), (2, 240, -6), (57, 58), (56, 58), (58, 60), (50, 52)),)
    flexion = -24 * build.vary(0.3)
    if build.lateral:
        lower, flesh_below = _bent(lower, (0, -5, 0), flexion), bend(flesh_below, (0, -5, 0), flexion)
    soft = (flesh(build, (0, -240, 0), (0, 12, 0), (78, 78), (68, 68), (60, 62), (57, 60)), *flesh_below)
    sites = (
        Site(bone=0, from_along=0.82, to_along=0.92, weight=1.0),
        Site(bone=1, from_along=0.06, to_along=0.22, weight=1.4, partner=2),
        Site(bone=2, from_along=0.06, to_along=0.2, weight=0.6),
    )
    return Limb(
        bones=(_femur(build), *lower, patella), soft=soft, sites=sites, field_mm=(104, 126), views=_STANDARD_VIEWS
    )


def _leg(build: Build) -> Limb:
    soft = (flesh(build, (4, -10, -8), (4, 400, -4), (60, 60), (62, 66), (55, 58), (43, 46), (38, 40), (38, 44)),)
    sites = (
        Site(bone=0, from_along=0.22, to_along=0.84, weight=1.6, partner=1),
        Site(bone=1, from_along=0.25, to_along=0.82, partner=0),
    )
    return Limb(
        bones=(_tibia(build), _fibula(build)), soft=soft, sites=sites, field_mm=(80, 104), views=_STANDARD_VIEWS
    )


def _ankle(build: Build) -> Limb:
    tarsals = (
        ((1, 389, 4), (19, 13, 23), 0),
        ((2, 396, 30), (13, 11, 14), 0),
        ((5, 411, -18), (15, 19, 37), 0),
        ((0, 402, 47), (17, 12, 8), 0),
        ((14, 410, 48), (11, 10, 14), 0),
    )
    bones = [_tibia(build), _fibula(build)]
    bones += [Bone(name="tarsal", parts=(ball(build, *place[:2], tilt=place[2]),)) for place in tarsals]
    soft = (
        flesh(build, (4, 240, -6), (4, 400, -2), (42, 46), (38, 40), (36, 40), (38, 42)),
        flesh(build, (4, 360, 14), (4, 442, 20), (34, 30), (38, 56), (38, 62), (34, 54)),
    )
    sites = (
        Site(bone=1, from_along=0.80, to_along=0.955, weight=1.6, partner=0),
        Site(bone=0, from_along=0.82, to_along=0.93, partner=1),
    )
    return Limb(bones=tuple(bones), soft=soft, sites=sites, field_mm=(80, 96), views=_STANDARD_VIEWS)


def _foot(build: Build) -> Limb:
    rays = (
        ((26, 0, 0), 9, (58, 30, 22), 6.6),
        ((11, 4, 0), 3, (68, 26, 12, 9), 4.0),
        ((0, 2, -1), -1, (66, 24, 11, 9), 3.8),
        ((-11, -2, -2), -5, (64, 22, 10, 8), 3.8),
        ((-22, -8, -3), -10, (62, 20, 9, 8), 4.2),
    )
    bones: list[Bone] = []
    sites = []
    soft = [flesh(build, (2, -90, -4), (2, 88, 0), (36, 30), (40, 28), (46, 22), (50, 14))]
    for order, (base, lean, lengths, width) in enumerate(rays):
        at = len(bones)
        bones += _ray(build, base, lean, 10 - 2 * order, lengths, width)
        tip = bones[-1].shaft.end / build.scale
        knuckle = bones[at].shaft.end / build.scale
        soft.append(
            flesh(build, tuple(knuckle), tuple(tip + (tip - knuckle) * 0.06), (10, 9), (8.5, 8), (8, 7), (6, 4))
        )
        sites.append(Site(bone=at, from_along=0.2, to_along=0.82, weight=(0.7, 1, 1, 1, 1.6)[order]))
    for centre, radii in (
        ((26, -16, 2), (10, 13, 10)),
        ((12, -12, 2), (7, 12, 9)),
        ((2, -14, 0), (7, 12, 9)),
        ((-14, -24, -4), (11, 16, 10)),
        ((16, -36, 4), (18, 9, 11)),
        ((12, -58, 4), (16, 18, 14)),
        ((-6, -74, -8), (15, 34, 17)),
    ):
        bones.append(Bone(name="tarsal", parts=(ball(build, centre, radii),)))
    return Limb(
        bones=tuple(bones), soft=tuple(soft), sites=tuple(sites), field_mm=(42, 54), views=_FLAT_VIEWS, distal_up=True
    )


LIMBS: dict[BodyPart, Callable[[Build], Limb]] = {
    BodyPart.HAND: _hand,
    BodyPart.WRIST: _wrist,
    BodyPart.FOREARM: _forearm,
    BodyPart.ELBOW: _elbow,
    BodyPart.HUMERUS: _humerus_limb,
    BodyPart.FEMUR: _femur_limb,
    BodyPart.KNEE: _knee,
    BodyPart.LEG: _leg,
    BodyPart.ANKLE: _ankle,
    BodyPart.FOOT: _foot,
}
