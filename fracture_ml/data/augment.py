"""What the network is shown of each image: an affine view, its greys changed; a batch at a time, on the device."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fracture_ml.core.recipe import PreprocessSpec, TrainRecipe

_POINTS_A_CELL = 4  # in each direction, by which the share of a cell that lies in a box is told


class Views(NamedTuple):
    """pixels: float32, (B, 1, s, s). theta: float32, (B, 2, 3), where they were taken from, as F.affine_grid has it."""

    pixels: Tensor
    theta: Tensor


def draw_views(
    pixels: Tensor,
    spec: PreprocessSpec,
    recipe: TrainRecipe,
    generator: torch.Generator,
    *,
    size_px: int | None = None,
) -> Views:
    """Rotate, scale, shift, mirror, brighten and contrast each image by amounts drawn anew for it.

    What comes in from outside the frame is black. Brightness is a share of the full 8-bit scale; contrast turns about
    the training mean. No value is read back to the host.

    Args:    pixels: float32, (B, 1, S, S), from to_model_input with the same spec. generator: on the same device.
             size_px: of the views; None: S.
    """
    count, channels, full_px, _ = pixels.shape
    side_px = size_px or full_px
    draws = torch.rand(7, count, generator=generator, device=pixels.device)  # 0 to 1
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
    grid = F.affine_grid(theta, [count, channels, side_px, side_px], align_corners=False)
    seen = F.grid_sample(pixels - black, grid, mode="bilinear", padding_mode="zeros", align_corners=False) + black

    contrast = (1 + either_way[5] * recipe.contrast_range).view(count, 1, 1, 1)
    brightness = (either_way[6] * recipe.brightness_range / spec.std).view(count, 1, 1, 1)
    return Views(seen * contrast + brightness, theta)


def fracture_in_cells(theta: Tensor, boxes: Tensor, cells: int) -> Tensor:
    """How much of a fracture each cell of a view shows: float32, (B, cells, cells), 0 to 1.

    The part of a box that lies in the cell, as a share of the most that could: of a box that is larger than a cell in
    both directions the share of the cell that it fills, of a smaller one the share of the box. The largest, where there
    are several boxes. What is finer than the points' grain counts as one point's square.

    Args: theta: (B, 2, 3), of the view. boxes: float32, (B, K, 4): left, top, right, bottom, shares of the square.
          cells: of the network's evidence, in each direction.
    """
    points = _POINTS_A_CELL * cells
    places = (F.affine_grid(theta, [len(theta), 1, points, points], align_corners=False) + 1) / 2  # (B, p, p, 2)
    cell = torch.linalg.det(theta[:, :, :2]).abs().sqrt() / cells  # (B,), its side as a share of the square's
    apart = (cell / _POINTS_A_CELL).view(-1, 1, 1)  # a point stands for a square of this side
    sides = boxes[..., 2:] - boxes[..., :2]  # (B, K, 2)
    sides = torch.where(sides > 0, torch.maximum(sides, apart), 0.0)  # what is finer than the points is seen by one
    middles = (boxes[..., :2] + boxes[..., 2:]) / 2
    first, last = ((middles + end * sides)[:, :, None, None] for end in (-0.5, 0.5))  # (B, K, 1, 1, 2)
    at, reach = places.unsqueeze(1), apart[..., None, None] / 2  # (B, 1, p, p, 2), (B, 1, 1, 1, 1)
    ends = torch.minimum(at + reach, last) - torch.maximum(at - reach, first)  # (B, K, p, p, 2)
    inside = (ends / (2 * reach)).clamp(min=0).prod(-1)  # (B, K, p, p), 0 to 1
    of_cell = F.avg_pool2d(inside, _POINTS_A_CELL)  # (B, K, cells, cells)
    most = (sides / cell.view(-1, 1, 1)).clamp(max=1.0).prod(-1)  # (B, K), the share of a cell that the box can fill
    return (of_cell / most.clamp(min=1e-6)[..., None, None]).amax(1).clamp(max=1.0)
