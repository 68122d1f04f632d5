import io

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image
from pytorch_grad_cam import GradCAM

from fracture_ml.imaging.letterbox import LetterboxGeometry
from fracture_ml.model.device import autocast
from fracture_ml.model.inference import freeze_for_inference
from fracture_ml.model.network import FractureNetwork, build_network
from fracture_ml.scoring.heat_map import (
    box_of,
    heat_map_png,
    overlay_png,
    shown_size,
    to_source_aspect,
)


@pytest.fixture(scope="module")
def network() -> FractureNetwork:
    """Untrained, with batch norms that have seen images, so that its cells differ."""
    torch.manual_seed(0)
    network = build_network()
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(8, 1, 96, 96))
        network.fc.weight.mul_(10)
    return network.eval()


def test_the_evidence_is_what_the_grad_cam_package_finds_in_the_whole_network(network):
    """Selvaraju et al. 2017, equations 1 and 2 before the ReLU, at the last convolution, for the logits' difference.

    Up to two constants that a map on a scale of its own does not have: the number of cells, and the layer's bias.
    """
    images, layer = torch.randn(3, 1, 128, 96), network.layer4[-1]
    fracture_against_none = [lambda logits: logits[1] - logits[0]] * len(images)
    with GradCAM(network, [layer]) as cam:
        cam(images, fracture_against_none)
        (features,), (gradients,) = cam.activations_and_grads.activations, cam.activations_and_grads.gradients
        theirs = cam.get_cam_image(images, layer, fracture_against_none, features.numpy(), gradients.numpy())
    with torch.inference_mode():
        evidence = network.evidence(images).numpy()  # (3, 4, 3)
        ours = evidence - (network.fc.bias[1] - network.fc.bias[0]).item()
    cells = 4 * 3
    assert np.ptp(ours) > 0.5
    assert theirs * cells == pytest.approx(ours, rel=1e-3, abs=1e-4 * float(np.abs(ours).max()))


def test_the_frozen_network_finds_the_same_evidence(network):
    images = torch.randn(4, 1, 96, 96)
    frozen = freeze_for_inference(network, torch.device("cpu"))
    with torch.inference_mode():
        plain = network.evidence(images)
        with autocast(torch.device("cpu")):
            quick = frozen.evidence(images)
    assert quick.dtype == torch.float32
    assert np.corrcoef(plain.ravel(), quick.ravel())[0, 1] > 0.99


def test_the_frozen_network_finds_the_same_feature_maps_for_the_places(network):
    images = torch.randn(2, 1, 96, 96)
    frozen = freeze_for_inference(network, torch.device("cpu"))
    with torch.inference_mode(), autocast(torch.device("cpu")):
        for plain, quick in zip(network.feature_maps(images), frozen.feature_maps(images), strict=True):
            assert plain.shape == quick.shape
            difference = (plain.float() - quick.float()).abs()
            assert difference.mean() < 0.02 * plain.float().abs().mean()


@pytest.mark.parametrize(("width", "height"), [(400, 200), (200, 400), (300, 300)])
def test_the_letterbox_is_undone_and_a_hot_place_comes_back_where_it_was(width, height):
    geometry = LetterboxGeometry.of(width, height, 224)
    activation = np.zeros((7, 7), np.float32)
    activation[3, 3] = 2.0  # the middle of the square is the middle of the image
    attention = to_source_aspect(activation, geometry)
    assert max(attention.shape) == 112
    assert attention.shape[1] / attention.shape[0] == width / height
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


def test_the_box_is_around_the_strongest_region_wherever_it_lies_and_ends_at_half_of_the_maximum():
    attention = np.full((100, 200), 0.3, np.float32)
    attention[5:30, 5:60] = 0.9
    attention[60:80, 100:140] = 0.6
    attention[70, 120] = 1.0
    box = box_of(attention, 400, 200)
    assert (box.x, box.y, box.width, box.height) == (200, 120, 80, 40)


def test_the_overlay_keeps_the_radiograph_where_there_is_no_attention_and_has_a_caption_below():
    pixels = np.tile(np.linspace(0, 255, 480).astype(np.uint8), (320, 1))
    attention = np.zeros((160, 240), np.float32)
    attention[40:80, 40:80] = 1.0
    overlay = np.asarray(Image.open(io.BytesIO(overlay_png(pixels, attention))).convert("RGB"))
    assert overlay.shape[1] == 480
    assert np.abs(overlay[200:320, 240:].astype(int) - pixels[200:320, 240:, None]).max() <= 2
    red, _, blue = overlay[120, 120].astype(int)
    assert red > blue + 50
    assert len(overlay) > 330
    assert overlay[320:].max() > 200  # the letters


@pytest.mark.parametrize(("level", "share"), [(0.0, 0), (0.19, 0), (0.34, 0.2), (0.58, 0.5), (1.0, 1)])
def test_the_palette_holds_the_blend_of_grey_and_attention_from_a_fifth_of_the_maximum_on(level, share):
    pixels = np.tile(np.arange(0, 256, dtype=np.uint8).repeat(2), (400, 1))  # (400, 512)
    attention = np.full((88, 112), level, np.float32)
    overlay = np.asarray(Image.open(io.BytesIO(overlay_png(pixels, attention))).convert("RGB"))[:400]
    colour = np.array(colormaps["inferno"](0.2 + 0.7 * share)[:3]) * 255
    blend = pixels[..., None] * (1 - 0.6 * share) + colour * 0.6 * share
    assert np.abs(overlay - blend).max() <= 16
    assert np.abs((overlay - blend).mean()) < 4


@pytest.mark.parametrize(("width", "height"), [(60, 40), (373, 454), (4000, 3000), (2000, 50)])
def test_an_overlay_is_from_320_to_512_px_long(width, height):
    shown = shown_size(width, height)
    assert 320 <= max(shown) <= 512
    assert shown[0] / shown[1] == pytest.approx(width / height, rel=0.05)


def test_the_caption_fits_a_narrow_image():
    overlay = Image.open(io.BytesIO(overlay_png(np.full((512, 86), 9, np.uint8), np.zeros((224, 38), np.float32))))
    assert overlay.width == 86
    letters = np.asarray(overlay.convert("L"))[512:].max(axis=0)
    assert letters[0] < 100 and letters[-1] < 100  # nothing is cut at the sides


def test_the_grey_map_is_white_at_the_maximum():
    assert np.asarray(Image.open(io.BytesIO(heat_map_png(np.array([[0.0, 1.0]], np.float32))))).tolist() == [[0, 255]]


def test_freezing_leaves_the_network_itself_as_it_was():
    network = build_network().eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    freeze_for_inference(network, torch.device("cpu"))
    after = network.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert {tensor.dtype for tensor in network.parameters()} == {torch.float32}
