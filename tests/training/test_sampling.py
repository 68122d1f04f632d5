"""Crops: so many around the drawn fractures, the others on what is not black, and none that nobody can label."""

import numpy as np
import pytest
import torch

from fracture_ml.core.errors import NotEnoughData
from fracture_ml.core.recipe import TrainRecipe
from fracture_ml.data.boxes import WHOLE
from fracture_ml.training.sampling import Crops, Draw

RECIPE = TrainRecipe(image_size_px=128, crop_px=32, batch_size=64, crops_per_image=50, fractured_crops=0.3)
EXTENT = 32 / 128
NEGATIVE, TWICE, UNDRAWN, EDGE = 5, 6, 7, 8  # rows of an array of ten images
ROWS = np.array([NEGATIVE, TWICE, UNDRAWN, EDGE])


def boxes() -> np.ndarray:
    boxes = np.zeros((10, 2, 4), np.float32)
    boxes[TWICE] = [[0.25, 0.25, 0.30, 0.35], [0.70, 0.60, 0.80, 0.64]]
    boxes[UNDRAWN, 0] = WHOLE
    boxes[EDGE, 0] = [0.48, 0.9, 0.52, 1.0]
    boxes[0] = 0.5  # not among the rows: must not be seen
    return boxes


CONTENT = np.array([[0.1, 0.2, 0.9, 0.7], [0, 0, 1, 1], [0, 0, 1, 1], [0.45, 0, 0.55, 1]], np.float32)


def crops(**changes) -> Crops:
    return Crops(ROWS, boxes(), CONTENT, RECIPE.with_changes(**changes))


def epoch(of: Crops, seed: int = 0) -> Draw:
    batches = list(of.epoch(torch.Generator().manual_seed(seed)))
    assert len(batches) == of.batches
    return Draw(*(torch.cat(parts) for parts in zip(*batches, strict=True)))


def distance_to_a_fracture(drawn: Draw) -> np.ndarray:
    """float32, (n,): how far, along the farther axis, the nearest fracture's middle is, in sides of a crop."""
    found = boxes()[drawn.rows.numpy()]  # (n, 2, 4)
    middles = (found[..., :2] + found[..., 2:]) / 2
    far = np.abs(middles - drawn.centres.numpy()[:, None]).max(2) / EXTENT
    return np.where(found.any(2), far, np.inf).min(1)


def test_an_epoch_has_so_many_crops_in_batches_of_nearly_equal_size():
    batches = list(crops(crops_per_image=7, batch_size=8).epoch(torch.Generator()))
    assert [len(batch.rows) for batch in batches] == [7, 7, 7]  # three images that somebody can label
    assert all(batch.centres.shape == (7, 2) and batch.centres.dtype == torch.float32 for batch in batches)


def test_an_image_whose_fracture_nobody_drew_gives_no_crop():
    drawn = epoch(crops())
    assert set(drawn.rows.tolist()) == {NEGATIVE, TWICE, EDGE}


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_the_share_of_crops_around_a_fracture_is_the_recipes_and_each_drawn_fracture_comes_as_often(share):
    """Told by a recipe that leaves the other crops to one negative image."""
    alone = Crops(np.array([NEGATIVE] * 60 + [TWICE]), boxes(), np.tile(CONTENT[:1], (61, 1)),
                  RECIPE.with_changes(fractured_crops=share))  # fmt: skip
    drawn = epoch(alone)
    near = distance_to_a_fracture(drawn) <= 0.3 + 1e-6
    assert near.mean() == pytest.approx(share, abs=0.03)
    centres = drawn.centres.numpy()[near & (drawn.rows.numpy() == TWICE)]
    assert (centres[:, 0] < 0.5).mean() == pytest.approx(0.5, abs=0.05)


def test_every_crop_is_near_a_fracture_or_has_its_middle_on_what_is_not_black():
    drawn = epoch(crops())
    near = distance_to_a_fracture(drawn) <= 0.3 + 1e-6
    content = np.zeros((10, 4), np.float32)
    content[ROWS] = CONTENT
    left, top, right, bottom = content[drawn.rows.numpy()].T
    across, down = drawn.centres.numpy().T
    on_content = (left <= across) & (across <= right) & (top <= down) & (down <= bottom)
    assert near.any() and (near | on_content).all()
    # A quarter of a crop's side from the edge, or in the middle of what is narrower than that.
    of_negative = drawn.centres.numpy()[drawn.rows.numpy() == NEGATIVE]
    margin = 0.25 * EXTENT
    assert of_negative.min(0) == pytest.approx([0.1 + margin, 0.2 + margin], abs=0.03)
    assert of_negative.max(0) == pytest.approx([0.9 - margin, 0.7 - margin], abs=0.03)
    assert (of_negative >= np.array([0.1, 0.2]) + margin - 1e-6).all()
    narrow = drawn.centres.numpy()[(drawn.rows.numpy() == EDGE) & ~near]
    assert len(narrow) and narrow[:, 0] == pytest.approx(0.5, abs=1e-6)


def test_the_same_generator_draws_the_same_crops_and_its_next_epoch_draws_others():
    first, again, other = epoch(crops(), 3), epoch(crops(), 3), epoch(crops(), 4)
    assert torch.equal(first.rows, again.rows) and torch.equal(first.centres, again.centres)
    assert not torch.equal(first.centres, other.centres)
    generator = torch.Generator().manual_seed(3)
    epochs = [torch.cat([batch.centres for batch in crops().epoch(generator)]) for _ in range(2)]
    assert torch.equal(epochs[0], first.centres) and not torch.equal(epochs[1], epochs[0])


def test_where_no_fracture_is_drawn_the_remedy_is_said():
    with pytest.raises(NotEnoughData, match=r"No label says where a fracture is.*crop_px=0"):
        Crops(ROWS[[0, 2]], boxes(), CONTENT[[0, 2]], RECIPE)
