"""Preprocessing, and the views that a network is shown: numbers that a person can check."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fracture_ml.core.errors import NotARadiograph, NotEnoughData
from fracture_ml.core.recipe import PreprocessSpec, TrainRecipe
from fracture_ml.data.augment import draw_views, fracture_in_cells
from fracture_ml.data.preprocess import measure_spec, to_model_input

SPEC = PreprocessSpec(image_size_px=32, mean=0.25, std=0.2)
STILL = TrainRecipe(
    image_size_px=32,
    rotation_degrees=0,
    scale_range=0,
    shift_fraction=0,
    brightness_range=0,
    contrast_range=0,
    flip_probability=0,
)


def _input(seed: int = 0, images: int = 4) -> torch.Tensor:
    pixels = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (images, 1, 32, 32), dtype=np.uint8))
    return to_model_input(pixels, SPEC)


class _Seen(NamedTuple):
    pixels: torch.Tensor  # (B, 1, S, S)
    fractured: torch.Tensor  # (B, c, c)


def _views(pixels: torch.Tensor, boxes=None, *, cell_px=32, seed=0, **changes) -> _Seen:
    """Of every image, with the same boxes, (K, 4)."""
    seen = draw_views(pixels, SPEC, STILL.with_changes(**changes), torch.Generator().manual_seed(seed))
    drawn = torch.tensor([[0.0] * 4] if boxes is None else boxes, dtype=torch.float32).expand(len(pixels), -1, -1)
    return _Seen(seen.pixels, fracture_in_cells(seen.theta, drawn, pixels.shape[-1] // cell_px))


def _augmented(pixels: torch.Tensor, seed: int = 0, **changes) -> torch.Tensor:
    return _views(pixels, seed=seed, **changes).pixels


def test_the_measured_spec_gives_zero_mean_and_unit_variance_over_the_training_rows_alone():
    pixels = np.random.default_rng(0).integers(0, 200, (600, 32, 32), dtype=np.uint8)
    rows = np.arange(0, 600, 2)
    pixels[1::2] = 255  # the other side of the split must not be seen
    spec = measure_spec(pixels, rows)
    assert spec.mean == pytest.approx(pixels[rows].mean() / 255, abs=1e-9)
    assert spec.std == pytest.approx(pixels[rows].std() / 255, abs=1e-9)
    scaled = to_model_input(torch.from_numpy(pixels[rows]).unsqueeze(1), spec)
    assert scaled.mean().item() == pytest.approx(0, abs=1e-4)
    assert scaled.std().item() == pytest.approx(1, abs=1e-3)


def test_pixels_of_another_kind_are_refused_and_never_converted():
    for wrong in (
        torch.zeros(1, 3, 32, 32, dtype=torch.uint8),
        torch.zeros(1, 1, 32, 32),
        torch.zeros(1, 1, 64, 64, dtype=torch.uint8),
    ):
        with pytest.raises(NotARadiograph, match="must be uint8"):
            to_model_input(wrong, SPEC)
    with pytest.raises(NotEnoughData):
        measure_spec(np.zeros((2, 32, 32), np.uint8), np.array([0, 1]))


def test_no_augmentation_leaves_the_image_as_it_is():
    torch.testing.assert_close(_augmented(_input()), _input(), atol=1e-4, rtol=0)


def test_a_view_of_half_the_size_is_the_mean_of_each_four_pixels():
    half = draw_views(_input(), SPEC, STILL, torch.Generator(), size_px=16).pixels
    torch.testing.assert_close(half, torch.nn.functional.avg_pool2d(_input(), 2), atol=1e-4, rtol=0)


def test_a_flip_mirrors_left_and_right_exactly():
    torch.testing.assert_close(_augmented(_input(), flip_probability=1.0), _input().flip(3), atol=1e-4, rtol=0)


def test_each_image_is_turned_by_its_own_amount_and_what_comes_in_is_black():
    pixels = to_model_input(torch.full((6, 1, 32, 32), 200, dtype=torch.uint8), SPEC)
    turned = _augmented(pixels, rotation_degrees=45)
    black = -SPEC.mean / SPEC.std
    assert turned.min().item() == pytest.approx(black, abs=1e-4)
    assert turned[:, 0, 16, 16] == pytest.approx(pixels[0, 0, 0, 0].item(), abs=1e-4)  # the middle stays
    corners = (turned < black + 1e-3).sum(dim=(1, 2, 3))
    assert len(set(corners.tolist())) > 3


def test_a_turned_image_keeps_its_shape():
    pixels = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    pixels[:, :, 12:20, 12:20] = 255
    area = to_model_input(pixels, SPEC) - to_model_input(torch.zeros_like(pixels), SPEC)
    for seed in range(3):
        turned = _augmented(to_model_input(pixels, SPEC), seed, rotation_degrees=180) + SPEC.mean / SPEC.std
        assert turned.sum().item() == pytest.approx(area.sum().item(), rel=0.01)
        grown = _augmented(to_model_input(pixels, SPEC), seed, scale_range=0.5) + SPEC.mean / SPEC.std
        assert 0.25 * 0.9 < grown.sum().item() / area.sum().item() < 2.25 * 1.1


def test_the_same_generator_gives_the_same_distortion():
    changes = {"rotation_degrees": 20, "scale_range": 0.2, "shift_fraction": 0.1, "contrast_range": 0.2}
    assert torch.equal(_augmented(_input(), 3, **changes), _augmented(_input(), 3, **changes))
    assert not torch.equal(_augmented(_input(), 3, **changes), _augmented(_input(), 4, **changes))


# --- what a view shows of a fracture ----------------------------------------------------------------


def test_the_share_of_a_large_box_in_each_cell_is_told():
    fractured = _views(_input(), boxes=[[0.25, 0.0, 1.0, 0.375]], cell_px=8).fractured  # cells of a quarter each
    expected = torch.tensor([[0.0, 1, 1, 1], [0, 0.5, 0.5, 0.5], [0, 0, 0, 0], [0, 0, 0, 0]])
    torch.testing.assert_close(fractured, expected.expand(4, 4, 4))


def test_a_small_box_counts_by_its_own_share_and_of_several_boxes_the_largest():
    whole, spread = [0.30, 0.30, 0.35, 0.32], [0.74, 0.49, 0.76, 0.51]  # inside one cell; on the corner of four
    fractured = _views(_input(), boxes=[whole, spread, [0.0] * 4], cell_px=8).fractured[0]
    assert fractured[1, 1].item() == pytest.approx(1.0, abs=1e-3)
    assert fractured[1:3, 2:] == pytest.approx(np.full((2, 2), 0.25), abs=1e-3)
    assert fractured.sum().item() == pytest.approx(2.0, abs=1e-2)


def test_the_frame_of_an_image_whose_fracture_nobody_drew_is_fractured_throughout():
    torch.testing.assert_close(_views(_input(), boxes=[[0.0, 0, 1, 1]], cell_px=8).fractured, torch.ones(4, 4, 4))
    assert torch.equal(_views(_input(), cell_px=8).fractured, torch.zeros(4, 4, 4))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    sides=st.tuples(*[st.floats(0.001, 0.2)] * 2),
    middle=st.tuples(*[st.floats(0.35, 0.65)] * 2),
)
def test_a_fracture_in_view_fills_some_cell_by_a_fifth_however_small_or_thin(seed, sides, middle):
    box = [middle[0] - sides[0] / 2, middle[1] - sides[1] / 2, middle[0] + sides[0] / 2, middle[1] + sides[1] / 2]
    seen = _views(_input(), boxes=[box], cell_px=8, seed=seed, rotation_degrees=180, scale_range=0.2)
    assert (seen.fractured.flatten(1).amax(1) >= 0.2).all()


def test_a_sliver_of_a_fracture_at_the_edge_of_the_view_is_hardly_one():
    shifted = _views(_input(images=200), boxes=[[0.0, 0.4, 0.1, 0.6]], cell_px=16, shift_fraction=0.1).fractured
    most = shifted.flatten(1).amax(1)
    assert most.min() < 0.2 and most.max() > 0.5


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    corners=st.tuples(*[st.floats(0.0, 1.0)] * 4),
    flip=st.sampled_from([0.0, 1.0]),
)
def test_what_the_cells_show_of_a_box_is_what_a_painted_mask_shows_after_the_same_view(seed, corners, flip):
    """Turned by any angle, mirrored, scaled and shifted. The box is larger than a cell, and ends between two pixels."""
    left, top = (round(80 * x) for x in corners[:2])
    right, bottom = (start + 48 + round((80 - start) * x) for start, x in zip((left, top), corners[2:], strict=True))
    mask = torch.zeros(1, 1, 128, 128, dtype=torch.uint8)
    mask[:, :, top:bottom, left:right] = 255
    seen = _views(
        to_model_input(mask, PreprocessSpec(image_size_px=128, mean=SPEC.mean, std=SPEC.std)),
        boxes=[[left / 128, top / 128, right / 128, bottom / 128]], cell_px=32,
        seed=seed, rotation_degrees=180, scale_range=0.2, shift_fraction=0.1, flip_probability=flip,
    )  # fmt: skip
    white = seen.pixels * SPEC.std + SPEC.mean  # 0 to 1
    share = torch.nn.functional.avg_pool2d(white, 32)[:, 0]
    assert (seen.fractured - share).abs().max().item() < 0.04
