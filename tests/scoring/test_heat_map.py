import io

import numpy as np
import pytest
import torch
from PIL import Image

from fracture_ml.imaging.letterbox import LetterboxGeometry
from fracture_ml.scoring.heat_map import (
    box_of,
    class_activation_maps,
    heat_map_png,
    overlay_png,
    shown_size,
    to_source_aspect,
)


def test_the_map_is_what_grad_cam_finds_with_a_backward_pass():
    torch.manual_seed(0)
    features = torch.randn(2, 5, 4, 3, requires_grad=True)
    linear = torch.nn.Linear(5, 2)
    logits = linear(features.mean(dim=(2, 3)))
    (logits[:, 1] - logits[:, 0]).sum().backward()
    weights = features.grad.sum(dim=(2, 3))  # Grad-CAM's, times the number of places
    expected = (features * weights[:, :, None, None]).sum(dim=1).detach().numpy()
    assert class_activation_maps(features.detach(), linear.weight.detach()) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("width", "height"), [(400, 200), (200, 400), (300, 300)])
def test_the_letterbox_is_undone_and_a_hot_place_comes_back_where_it_was(width, height):
    geometry = LetterboxGeometry.of(width, height, 224)
    activation = np.zeros((7, 7), np.float32)
    activation[3, 3] = 2.0  # the middle of the square is the middle of the image
    attention = to_source_aspect(activation, geometry)
    assert attention.shape[::-1] == shown_size(width, height)
    assert attention.max() == 1.0
    box = box_of(attention, width, height)
    assert box.x + box.width / 2 == pytest.approx(width / 2, rel=0.02)
    assert box.y + box.height / 2 == pytest.approx(height / 2, rel=0.02)
    assert box.width * max(width, height) / 224 < width


def test_an_image_flagged_below_a_logit_of_zero_still_shows_its_strongest_place():
    activation = np.full((7, 7), -3.0, np.float32)
    activation[5, 1] = -1.0
    box = box_of(to_source_aspect(activation, LetterboxGeometry.of(300, 300, 224)), 300, 300)
    assert box.x < 1.5 / 7 * 300 < box.x + box.width
    assert box.y < 5.5 / 7 * 300 < box.y + box.height


def test_attention_to_the_black_bars_alone_gives_no_box():
    geometry = LetterboxGeometry.of(400, 100, 224)
    activation = np.zeros((7, 7), np.float32)
    activation[0, :] = 1.0
    attention = to_source_aspect(activation, geometry)
    assert not attention.any()
    assert box_of(attention, 400, 100) is None


def test_the_box_holds_the_strongest_region_and_no_other():
    attention = np.zeros((100, 200), np.float32)
    attention[10:20, 30:50] = 0.9
    attention[12, 40] = 1.0
    attention[70:90, 150:190] = 0.95
    box = box_of(attention, 400, 200)
    assert (box.x, box.y, box.width, box.height) == (60, 20, 40, 20)


def test_the_overlay_keeps_the_radiograph_where_there_is_no_attention_and_has_a_caption_below():
    pixels = np.tile(np.linspace(0, 255, 600).astype(np.uint8), (400, 1))
    attention = np.zeros((400, 600), np.float32)
    attention[100:200, 100:200] = 1.0
    overlay = np.asarray(Image.open(io.BytesIO(overlay_png(pixels, attention))))
    assert (overlay[300:400, 300:] == pixels[300:400, 300:, None]).all()
    red, _, blue = overlay[150, 150].astype(int)
    assert red > blue + 50
    assert len(overlay) > 420
    assert overlay[400:].max() > 200  # the letters


def test_the_caption_fits_a_narrow_image():
    attention = np.zeros((900, 150), np.float32)
    overlay = Image.open(io.BytesIO(overlay_png(np.full((900, 150), 9, np.uint8), attention)))
    assert overlay.width == 150
    letters = np.asarray(overlay)[900:].max(axis=(0, 2))
    assert letters[0] < 100 and letters[-1] < 100  # nothing is cut at the sides


def test_the_grey_map_is_white_at_the_maximum():
    assert np.asarray(Image.open(io.BytesIO(heat_map_png(np.array([[0.0, 1.0]], np.float32))))).tolist() == [[0, 255]]
