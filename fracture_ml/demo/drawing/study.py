"""One study: the same anatomy, hardware and fracture, seen from up to three directions."""

from dataclasses import dataclass

import numpy as np

from fracture_ml.core.errors import FractureError
from fracture_ml.core.records import BodyPart, Box
from fracture_ml.demo.drawing.attenuation import MU_FAT, MU_SOFT, bone_shadow, flesh_thickness
from fracture_ml.demo.drawing.distractors import draw_canal, marker_shadow, skin_folds
from fracture_ml.demo.drawing.exposure import Screen, expose
from fracture_ml.demo.drawing.fractures import Fracture, box_of, break_bones, broken_shadow
from fracture_ml.demo.drawing.hardware import Implant, choose_implants, implant_shadow
from fracture_ml.demo.drawing.limbs import LIMBS, Limb, Site
from fracture_ml.demo.drawing.noise import smooth_noise
from fracture_ml.demo.drawing.projection import Grid, aim_cone, project, window_around
from fracture_ml.demo.drawing.solids import Bone, Build

MU_PLASTER = 0.30  # 1/cm
DRAWN_BODY_PARTS = tuple(LIMBS)


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
    fractures = break_bones(rng, standing, site, place)
    implants = choose_implants(rng, standing, site, place)
    cast = bool(rng.random() < 0.10)
    screen = Screen.draw(rng)
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


def _choose_site(rng: np.random.Generator, limb: Limb) -> Site:
    weights = np.array([site.weight for site in limb.sites])
    return limb.sites[int(rng.choice(len(limb.sites), p=weights / weights.sum()))]


def _draw_view(
    rng: np.random.Generator,
    limb: Limb,
    view: str,
    *,
    site: Site,
    place: float,
    fractures: tuple[Fracture, ...],
    implants: tuple[Implant, ...],
    cast: bool,
    screen: Screen,
    laterality: str,
    body_part: BodyPart,
    scale: float,
) -> DrawnRadiograph:
    degrees = limb.views[view] + float(np.clip(rng.normal(0, 5), -10, 10))
    grid = aim_cone(rng, limb, site, place, degrees, laterality, scale)
    shape = grid.x.shape
    tissue = smooth_noise(rng, shape, 26)
    grain = smooth_noise(rng, shape, 0.28 / grid.spacing_mm) * np.float32(0.3)

    body = flesh_thickness(limb.soft, degrees, grid)
    muscle = flesh_thickness(limb.soft, degrees, grid, swell=0.86)
    depth = MU_FAT * (body - muscle) + MU_SOFT * muscle * (1 + 0.03 * tissue)
    depth += skin_folds(rng, grid, body)
    if cast:
        plaster = flesh_thickness(limb.soft, degrees, grid, swell=1.04, more_mm=2.0)
        plaster = flesh_thickness(limb.soft, degrees, grid, swell=1.04, more_mm=float(rng.uniform(5, 8))) - plaster
        depth += MU_PLASTER * plaster * (1 + 0.05 * smooth_noise(rng, shape, 0.8 / grid.spacing_mm))
    bones = np.zeros(shape, np.float32)
    broken = {fracture.bone: fracture for fracture in fractures}
    for index, bone in enumerate(limb.bones):
        _draw_bone(bones, bone, broken.get(index), degrees, grid, grain)
    draw_canal(rng, bones, limb, site, place, degrees, grid)
    depth += np.maximum(bones, 0)
    metal = marker_shadow(rng, shape, laterality)
    for implant in implants:
        metal += implant_shadow(implant, limb, degrees, grid)
    pixels = expose(rng, depth, metal, body, screen)
    boxes = tuple(box_of(fracture, limb.bones[fracture.bone].shaft, degrees, grid) for fracture in fractures)
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


def _draw_bone(
    total: np.ndarray, bone: Bone, fracture: Fracture | None, degrees: float, grid: Grid, grain: np.ndarray
) -> None:
    """Add one bone's shadow to `total` in place."""
    margin = 0.0 if fracture is None else 12.0 + np.hypot(*fracture.step_mm) + np.hypot(*fracture.apex_mm)
    shadow = np.zeros_like(total)
    spine = project(bone.shaft, degrees)
    for part in bone.parts:
        seen = project(part, degrees)
        ends = np.stack([seen.origin, seen.origin + seen.along * seen.length_mm])
        reach = float(part.half_widths_mm.max()) + max(map(abs, part.bow_mm)) + margin
        window = window_around(ends, reach, grid)
        x, y, local = grid.x[window], grid.y[window], grain[window]
        if not x.size:
            continue
        if fracture is None:
            piece = bone_shadow(part, seen, x, y, local)
        else:
            piece = broken_shadow(part, seen, bone.shaft, spine, fracture, x, y, local)
        np.maximum(shadow[window], piece, out=shadow[window])
    total += shadow
