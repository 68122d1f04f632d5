"""The body parts that can be drawn: their bones, soft tissue, usual views, and where they break."""

from collections.abc import Callable
from dataclasses import dataclass

from fracture_ml.core.records import BodyPart
from fracture_ml.demo.drawing.bones import carpals, femur, fibula, humerus, radius, ray, tibia, ulna
from fracture_ml.demo.drawing.solids import Bone, Build, Tube, ball, bend, flesh

_STANDARD_VIEWS = {"frontal": 0.0, "lateral": 90.0, "oblique": 45.0}
_FLAT_VIEWS = {"frontal": 0.0, "oblique": 35.0, "lateral": 72.0}  # hands and feet are fanned out for a lateral view


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
    """What an image of a body part can show, and from where it is usually seen."""

    bones: tuple[Bone, ...]
    soft: tuple[Tube, ...]
    sites: tuple[Site, ...]
    field_mm: tuple[float, float]  # the usual cone: width, height
    views: dict[str, float]  # name -> degrees about the long axis
    distal_up: bool = False


def _bent(bones: list[Bone], hinge_mm: tuple[float, float, float], degrees: float) -> list[Bone]:
    """Whole bones, turned as `bend` turns their parts."""
    return [Bone(name=bone.name, parts=bend(bone.parts, hinge_mm, degrees)) for bone in bones]


def _forearm_flesh(build: Build) -> Tube:
    return flesh(build, (2, -30, 0), (1, 300, 0), (44, 42), (47, 43), (41, 38), (33, 30), (29, 23), (34, 20))


def _forearm(build: Build) -> Limb:
    bones = (radius(build), ulna(build))
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
    bones = [radius(build), ulna(build), *carpals(build)]
    for base, lean in (((15, 284, 0), 6), ((4, 285, 0), 0), ((-7, 283, -1), -6), ((-16, 279, -2), -13)):
        bones += ray(build, base, lean, 0, (62,), 4.4)
    bones += ray(build, (27, 277, 9), 32, 12, (44, 30), 5.0)
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
        bones += ray(build, base, lean, lift, lengths, width)
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
    lower = [radius(build), ulna(build)]
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
    return Limb(bones=(humerus(build), *lower), soft=soft, sites=sites, field_mm=(84, 102), views=_STANDARD_VIEWS)


def _humerus_limb(build: Build) -> Limb:
    soft = (flesh(build, (0, -350, 0), (0, 20, 0), (60, 58), (58, 56), (50, 52), (46, 44), (42, 36)),)
    sites = (Site(bone=0, from_along=0.16, to_along=0.84),)
    return Limb(bones=(humerus(build),), soft=soft, sites=sites, field_mm=(68, 90), views=_STANDARD_VIEWS)


def _femur_limb(build: Build) -> Limb:
    soft = (flesh(build, (0, -470, 0), (0, 30, 0), (95, 95), (92, 92), (84, 86), (72, 74), (60, 62)),)
    sites = (Site(bone=0, from_along=0.16, to_along=0.84),)
    return Limb(bones=(femur(build),), soft=soft, sites=sites, field_mm=(92, 122), views=_STANDARD_VIEWS)


def _knee(build: Build) -> Limb:
    patella = Bone(name="patella", parts=(ball(build, (0, -24, 33), (21, 22, 10)),))
    lower = [tibia(build), fibula(build)]
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
        bones=(femur(build), *lower, patella), soft=soft, sites=sites, field_mm=(104, 126), views=_STANDARD_VIEWS
    )


def _leg(build: Build) -> Limb:
    soft = (flesh(build, (4, -10, -8), (4, 400, -4), (60, 60), (62, 66), (55, 58), (43, 46), (38, 40), (38, 44)),)
    sites = (
        Site(bone=0, from_along=0.22, to_along=0.84, weight=1.6, partner=1),
        Site(bone=1, from_along=0.25, to_along=0.82, partner=0),
    )
    return Limb(bones=(tibia(build), fibula(build)), soft=soft, sites=sites, field_mm=(80, 104), views=_STANDARD_VIEWS)


def _ankle(build: Build) -> Limb:
    tarsals = (
        ((1, 389, 4), (19, 13, 23), 0),
        ((2, 396, 30), (13, 11, 14), 0),
        ((5, 411, -18), (15, 19, 37), 0),
        ((0, 402, 47), (17, 12, 8), 0),
        ((14, 410, 48), (11, 10, 14), 0),
    )
    bones = [tibia(build), fibula(build)]
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
        bones += ray(build, base, lean, 10 - 2 * order, lengths, width)
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
