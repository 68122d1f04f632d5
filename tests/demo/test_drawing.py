"""Drawn radiographs: the physics at one ray, and what a study keeps from view to view."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from fracture_ml.core.records import BodyPart
from fracture_ml.demo.drawing import DRAWN_BODY_PARTS, DrawnRadiograph, NotDrawable, draw_study
from fracture_ml.demo.drawing.attenuation import bone_shadow
from fracture_ml.demo.drawing.projection import project
from fracture_ml.demo.drawing.solids import SAMPLES, Tube


def _study(
    seed: int, *, fractured: bool, body_part: BodyPart = BodyPart.FOREARM, views: int = 2
) -> list[DrawnRadiograph]:
    return draw_study(np.random.default_rng(seed), body_part=body_part, fractured=fractured, views=views)


def test_a_ray_through_the_middle_of_a_shaft_is_weakened_by_two_walls_and_the_marrow():
    radius_mm, cortex_mm = 10.0, 3.0
    ones = np.ones(SAMPLES, np.float32)
    shaft = Tube(
        start=np.zeros(3),
        end=np.array([0.0, 200.0, 0.0]),
        half_widths_mm=np.full((SAMPLES, 2), radius_mm, np.float32),
        cortex_mm=cortex_mm * ones,
        spongy=0 * ones,
        density=ones,
    )
    x, y = np.array([[0.0, 9.9, 10.1]], np.float32), np.full((1, 3), 100, np.float32)
    for degrees in (0.0, 37.0, 90.0):
        shadow = bone_shadow(shaft, project(shaft, degrees), x, y, np.zeros_like(x))
        # Two walls of 3 mm at (0.60 - 0.205)/cm and 14 mm of marrow at (0.195 - 0.205)/cm.
        assert shadow[0, 0] == pytest.approx(0.6 * 0.395 - 1.4 * 0.010, abs=0.002)
        assert shadow[0, 1] > 0
        assert shadow[0, 2] == 0


@pytest.mark.parametrize("body_part", DRAWN_BODY_PARTS)
def test_every_body_part_is_drawn_in_three_views_with_the_fracture_in_each(body_part):
    drawn = _study(3, fractured=True, body_part=body_part, views=3)
    assert [radiograph.view for radiograph in drawn] == ["frontal", "lateral", "oblique"]
    for radiograph in drawn:
        height, width = radiograph.pixels.shape
        assert radiograph.pixels.dtype == np.uint8
        assert 256 <= max(height, width) <= 640
        assert radiograph.pixels.std() > 15
        assert radiograph.fractured and radiograph.boxes
        main = radiograph.boxes[0]
        assert 0 <= main.x < main.x + main.width <= width
        assert 0 <= main.y < main.y + main.height <= height


def test_the_same_seed_draws_the_same_pixels():
    first, second = (_study(11, fractured=True) for _ in range(2))
    assert all(np.array_equal(one.pixels, other.pixels) for one, other in zip(first, second, strict=True))


def test_a_fracture_changes_its_box_more_than_the_rest():
    ratios = []
    for seed in range(16):
        # The first views: after them the two studies have drawn different numbers. Their grain differs too: smooth it.
        broken, whole = _study(seed, fractured=True)[0], _study(seed, fractured=False)[0]
        assert broken.pixels.shape == whole.pixels.shape
        assert (broken.hardware, broken.cast, broken.laterality) == (whole.hardware, whole.cast, whole.laterality)
        assert broken.boxes and not whole.boxes
        change = np.abs(gaussian_filter(broken.pixels.astype(float) - whole.pixels, 2))
        inside = np.zeros(change.shape, bool)
        for box in broken.boxes:
            inside[int(box.y) : int(box.y + box.height), int(box.x) : int(box.x + box.width)] = True
        ratios.append(change[inside].mean() / change[~inside].mean())
    assert np.median(ratios) > 1.3  # 1.66 when this was written


def test_what_cannot_be_drawn_is_said():
    with pytest.raises(NotDrawable, match="choose 1 to 3 views of hand"):
        _study(0, fractured=False, body_part=BodyPart.CHEST)
    with pytest.raises(NotDrawable):
        _study(0, fractured=False, views=4)
