"""Each bone of an arm and a leg, adult, in millimetres."""

import numpy as np

from fracture_ml.demo.drawing.solids import Bone, Build, ball, tube


def radius(build: Build) -> Bone:
    head, foot = (10.5, 10.5, 13, 3), (16, 10.5, 26, 5)
    shaft = tube(build, (13, 12, 2), (13, 245, 0), (6.2, 5.8), head, foot, cortex=2.6, bow=(5 * build.vary(0.3), 2))
    return Bone(name="radius", parts=(shaft,))


def ulna(build: Build) -> Bone:
    head, foot = (10, 13, 34, 9), (8, 8, 13, 4)
    shaft = tube(build, (-8, -14, -4), (-12, 241, -3), (5.8, 6.2), head, foot, cortex=2.6, bow=(-2, -3))
    styloid = ball(build, (-16, 243, -3), (2.6, 6, 2.6))
    return Bone(name="ulna", parts=(shaft, styloid))


def humerus(build: Build) -> Bone:
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


def carpals(build: Build) -> list[Bone]:
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


def ray(
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


def femur(build: Build) -> Bone:
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


def tibia(build: Build) -> Bone:
    shaft = tube(
        build, (0, 3, 0), (-2, 372, 0), (12.5, 13.5), (37, 25, 34, 10), (21, 18, 32, 6), cortex=4.8, bow=(2, 3)
    )
    return Bone(
        name="tibia", parts=(shaft, ball(build, (-20, 376, 0), (6.5, 14, 9)), ball(build, (0, 40, 20), (9, 16, 8)))
    )


def fibula(build: Build) -> Bone:
    shaft = tube(
        build, (33, 22, -14), (26, 390, -8), (5.8, 6), (10, 10, 20, 6), (9, 11, 26, 10), cortex=2.5, bow=(2, -3)
    )
    return Bone(name="fibula", parts=(shaft,))
