"""Augmentation: one affine warp and one grey-scale change per image, as one operation per batch, on the device."""

import math

import torch
import torch.nn.functional as F

from fracture_ml.core.recipe import PreprocessSpec, TrainRecipe


def augment(
    pixels: torch.Tensor, spec: PreprocessSpec, recipe: TrainRecipe, generator: torch.Generator
) -> torch.Tensor:
    """Rotate, scale, shift, mirror, brighten and contrast each image by amounts drawn anew for it.

    What comes in from outside the frame is black. Brightness is a share of the full 8-bit scale; contrast turns about
    the training mean. No value is read back to the host.

    Args:    pixels: float32, (B, 1, S, S), from to_model_input with the same spec. generator: on the same device.
    Returns: float32, (B, 1, S, S).
    """
    size = pixels.shape[0]
    draws = torch.rand(7, size, generator=generator, device=pixels.device)  # 0 to 1
    either_way = 2 * draws - 1  # -1 to 1
    angle = either_way[0] * math.radians(recipe.rotation_degrees)
    zoom = 1 + either_way[1] * recipe.scale_range
    mirror = torch.where(draws[2] < recipe.flip_probability, -1.0, 1.0)
    shift = either_way[3:5] * 2 * recipe.shift_fraction  # the frame is 2 wide in grid_sample's coordinates

    # Where each output pixel is taken from: the frame is shrunk by the zoom, turned, mirrored and shifted.
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    theta = torch.stack(
        [torch.stack([mirror * cos, -mirror * sin, shift[0]], 1), torch.stack([sin, cos, shift[1]], 1)], 1
    )  # (B, 2, 3)
    black = -spec.mean / spec.std
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)
    warped = F.grid_sample(pixels - black, grid, mode="bilinear", padding_mode="zeros", align_corners=False) + black

    contrast = (1 + either_way[5] * recipe.contrast_range).view(size, 1, 1, 1)
    brightness = (either_way[6] * recipe.brightness_range / spec.std).view(size, 1, 1, 1)
    return warped * contrast + brightness


def shrink(pixels: torch.Tensor, size_px: int) -> torch.Tensor:
    """float32, (B, 1, S, S) -> (B, 1, size_px, size_px), anti-aliased; as it is where it has that size."""
    if pixels.shape[-1] == size_px:
        return pixels
    return F.interpolate(pixels, size=(size_px, size_px), mode="bilinear", antialias=True, align_corners=False)
