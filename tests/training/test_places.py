"""Deep supervision: inner layers learn from the drawn boxes where a fracture is, and nothing where nobody drew."""

import numpy as np
import pytest
import torch

from fracture_ml.core.recipe import TrainRecipe
from fracture_ml.data.augment import draw_views
from fracture_ml.data.boxes import WHOLE, known_places
from fracture_ml.data.preprocess import measure_spec, to_model_input
from fracture_ml.model.network import build_network, chance_by_place
from fracture_ml.training import loop
from fracture_ml.training.gradients import BatchGradients
from fracture_ml.training.loop import train
from fracture_ml.training.places import Places, loss_of_places, places_of

STILL = {"rotation_degrees": 0, "scale_range": 0, "shift_fraction": 0, "brightness_range": 0, "contrast_range": 0}


def answers_and_places(size: float = 3.0) -> tuple[list[torch.Tensor], Places]:
    """Of three images: one without a fracture, one with a drawn one, one with one that nobody drew."""
    generator = torch.Generator().manual_seed(0)
    answers = [size * torch.randn(3, cells, cells, generator=generator) for cells in (4, 2)]
    fine, coarse = torch.zeros(3, 4, 4), torch.zeros(3, 2, 2)
    fine[1, 2, :3] = torch.tensor([0.19, 0.2, 1.0])
    coarse[1, 1, 1] = 0.7
    fine[2], coarse[2] = 1.0, 1.0
    return answers, Places((fine, coarse), torch.tensor([True, True, False]))


def test_each_cell_is_asked_and_a_rare_fractured_one_counts_twenty_times():
    answers, places = answers_and_places()
    fractured = [torch.zeros(4, 4), torch.zeros(2, 2)]
    fractured[0][2, 1:3], fractured[1][1, 1] = 1.0, 1.0  # 0.19 of a fracture is the edge of a box

    def expected(image: int, truths: list[torch.Tensor]) -> float:
        total = 0.0
        for answer, truth in zip(answers, truths, strict=True):
            chance = answer[image].double().sigmoid()
            total -= (20 * truth * chance.log() + (1 - truth) * (1 - chance).log()).mean().item()
        return total

    loss = loss_of_places(answers, places)
    assert loss[0].item() == pytest.approx(expected(0, [torch.zeros(4, 4), torch.zeros(2, 2)]), rel=1e-5)
    assert loss[1].item() == pytest.approx(expected(1, fractured), rel=1e-5)
    assert loss[2].item() == 0.0  # nobody drew it


@pytest.mark.parametrize("size", [1e-3, 60.0, 1e4])
def test_answers_of_any_size_give_finite_gradients(size):
    answers, places = answers_and_places(size)
    answers = [answer.requires_grad_() for answer in answers]
    loss_of_places(answers, places).sum().backward()
    assert all(answer.grad.isfinite().all() and not answer.grad[2].any() for answer in answers)


def test_only_a_fracture_that_nobody_drew_has_no_known_place():
    boxes = np.array([[[0, 0, 0, 0], [0, 0, 0, 0]], [WHOLE, [0, 0, 0, 0]], [[0.1, 0.1, 0.2, 0.2], [0, 0, 0, 0]]])
    assert known_places(np.array([0, 1, 1]), boxes.astype(np.float32)).tolist() == [True, False, True]


def dots(images: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A bright dot of 8 px anywhere in 96 in every second image, and boxes around the dots."""
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 60, (images, 96, 96)).astype(np.uint8), np.arange(images) % 2
    boxes = np.zeros((images, 1, 4), np.float32)
    for image, label, box in zip(pixels, labels, boxes[:, 0], strict=True):
        if label:
            column, row = rng.integers(6, 82, 2)
            image[row : row + 8, column : column + 8] = 235
            box[:] = np.array([column, row, column + 8, row + 8]) / 96
    return pixels, labels, boxes


def test_the_inner_layers_find_places_that_they_did_not_learn_from():
    pixels, labels, boxes = dots(48)
    spec = measure_spec(pixels, np.arange(32))
    recipe = TrainRecipe(image_size_px=96, **STILL)
    torch.manual_seed(0)
    network = build_network().train()
    assert not network.knows_places
    gradients = BatchGradients(network, location_weight=3.0)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for step in range(24):
        rows = torch.arange(8) + 8 * (step % 4)
        batch = to_model_input(torch.from_numpy(pixels[rows, None]), spec)
        seen, theta = draw_views(batch, spec, recipe, torch.Generator().manual_seed(step))
        places = places_of(theta, torch.from_numpy(boxes[rows]), torch.ones(8, dtype=torch.bool), 96)
        gradients.compute(seen, torch.from_numpy(labels[rows]), places)
        optimizer.step()
    unseen = np.arange(33, 48, 2)
    with torch.inference_mode():
        *inner, _ = network.feature_maps(to_model_input(torch.from_numpy(pixels[unseen, None]), spec))
        fine, middle = network.places(*inner)  # (n, 12, 12), (n, 6, 6)
    assert network.knows_places
    middles = (boxes[unseen, 0, :2] + boxes[unseen, 0, 2:]) / 2  # across, down
    for answers in (fine, middle, chance_by_place((fine, middle))):
        cells = answers.shape[-1]
        found = np.array(np.unravel_index(answers.flatten(1).argmax(1).numpy(), (cells, cells))).T[:, ::-1]  # (n, 2)
        distance_px = np.abs((found + 0.5) / cells - middles).max(axis=1) * 96
        assert (distance_px <= 12).mean() >= 0.75  # chance: 7 %


def test_without_a_drawn_fracture_or_without_a_weight_nothing_is_asked(monkeypatch):
    pixels, labels, boxes = dots(12)
    asked: list[int] = []
    monkeypatch.setattr(loop, "places_of", lambda *given: asked.append(1) or places_of(*given))
    recipe = TrainRecipe(image_size_px=96, batch_size=8, epochs=1, warmup_epochs=0, **STILL)
    nobody_drew = boxes.copy()
    nobody_drew[labels == 1] = WHOLE
    for given, weight in ((boxes, 0.0), (nobody_drew, 1.0), (boxes, 1.0)):
        train(
            pixels,
            labels,
            given,
            np.arange(8),
            np.arange(8, 12),
            recipe.with_changes(location_weight=weight),
            torch.device("cpu"),
        )
    assert asked == [1]  # one batch, of the last
