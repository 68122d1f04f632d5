"""Preprocessing and augmentation: numbers that a person can check."""

import numpy as np
import pytest
import torch

from fracture_ml.core.errors import NotARadiograph, NotEnoughData
from fracture_ml.core.recipe import PreprocessSpec, TrainRecipe
from fracture_ml.data.augment import augment
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


def _augmented(pixels: torch.Tensor, seed: int = 0, **changes) -> torch.Tensor:
    return augment(pixels, SPEC, STILL.with_changes(**changes), torch.Generator().manual_seed(seed))


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
