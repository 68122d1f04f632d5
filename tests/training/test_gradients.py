"""Gradients in parts where memory is short: the same loss, said once, and an end where nothing helps."""

import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fracture_ml.core.errors import OutOfMemory
from fracture_ml.core.recipe import TrainRecipe
from fracture_ml.model.network import logits_of
from fracture_ml.training import loop
from fracture_ml.training.gradients import BatchGradients
from fracture_ml.training.loop import train
from fracture_ml.training.places import Places

IMAGES = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
TRUTH = torch.arange(12) % 3 // 2
FRACTURED = torch.zeros(12, 2, 2)
FRACTURED[TRUTH == 1] = torch.tensor([[1.0, 0.1], [0.0, 0.0]])  # drawn, in one cell of the four
PLACES = Places((FRACTURED, FRACTURED[:, :1, :1]), torch.arange(12) != 2)  # nobody drew the fracture of the third


class SmallMemory(nn.Module):
    """Linear evidence in four cells, on a device that has room for so many images."""

    def __init__(self, images_at_most: int) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.linear = nn.Linear(64, 4)
        self.images_at_most = images_at_most
        self.seen: list[int] = []

    def feature_maps(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        self.seen.append(len(images))
        if len(images) > self.images_at_most:
            raise torch.OutOfMemoryError("no memory")
        with torch.autocast("cpu", enabled=False):
            evidence = self.linear(images.flatten(1)).view(-1, 2, 2)
        return evidence, evidence[:, :1, :1], evidence

    def evidence_of(self, features: torch.Tensor) -> torch.Tensor:
        return features

    def places(self, *inner: torch.Tensor) -> list[torch.Tensor]:
        return [2 * answers for answers in inner]


def in_places(network: SmallMemory, weights: torch.Tensor | None) -> BatchGradients:
    return BatchGradients(network, weights, location_weight=0.5)


@pytest.mark.parametrize("weights", [None, torch.tensor([0.6, 1.7])])
def test_a_batch_that_does_not_fit_is_halved_until_it_does_and_its_gradients_are_those_of_the_whole(weights, caplog):
    roomy, small = SmallMemory(100), SmallMemory(3)
    whole = in_places(roomy, weights).compute(IMAGES, TRUTH, PLACES)
    gradients = in_places(small, weights)
    with caplog.at_level(logging.WARNING):
        parts = gradients.compute(IMAGES, TRUTH, PLACES)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(small.linear.weight.grad, roomy.linear.weight.grad)
    assert small.seen == [12, 6, 3, 3, 3, 3]
    assert [record.getMessage() for record in caplog.records][-1].startswith("The device's memory is full at 6 images")
    small.seen.clear()
    gradients.compute(IMAGES, TRUTH, PLACES)
    assert small.seen == [3, 3, 3, 3]  # it stays so


@pytest.mark.parametrize("weights", [None, torch.tensor([0.6, 1.7])])
def test_a_batch_that_fits_is_computed_at_once_and_its_loss_is_the_mean_weighted_by_class(weights):
    roomy = SmallMemory(100)
    answers = BatchGradients(roomy, weights).compute(IMAGES, TRUTH)
    logits = logits_of(roomy.linear(IMAGES.flatten(1)).view(-1, 2, 2))
    (expected,) = torch.autograd.grad(F.cross_entropy(logits, TRUTH, weight=weights), [roomy.linear.weight])
    torch.testing.assert_close(roomy.linear.weight.grad, expected)
    torch.testing.assert_close(answers, logits.detach())
    assert roomy.seen == [12]


def test_gradients_replace_those_of_the_batch_before():
    network = SmallMemory(100)
    gradients = in_places(network, None)
    gradients.compute(IMAGES, TRUTH, PLACES)
    first = network.linear.weight.grad.clone()
    gradients.compute(IMAGES, TRUTH, PLACES)
    assert torch.equal(network.linear.weight.grad, first)


def test_a_device_without_room_for_one_image_is_a_sentence():
    with pytest.raises(OutOfMemory, match="smaller image size"):
        BatchGradients(SmallMemory(0)).compute(IMAGES, TRUTH)


def test_memory_that_ends_outside_the_gradients_is_a_sentence_too(drawn, monkeypatch):
    def draw_views(*_, **__):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(loop, "draw_views", draw_views)
    recipe = TrainRecipe(image_size_px=32, batch_size=16, epochs=1)
    with pytest.raises(OutOfMemory, match="smaller batch"):
        loop.train(*drawn, np.arange(64), np.arange(64, 96), recipe, torch.device("cpu"))


def test_a_training_goes_on_in_parts_with_one_augmentation_for_the_whole_batch(drawn, monkeypatch, caplog):
    build, draw_views = loop.build_network, loop.draw_views
    augmented: list[int] = []

    def build_small(**options):
        network = build(**options)
        feature_maps = network.feature_maps

        def maps_or_out_of_memory(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            if network.training and len(images) > 8:
                raise torch.OutOfMemoryError("no memory")
            return feature_maps(images)

        network.feature_maps = maps_or_out_of_memory
        return network

    def counted(pixels, *rest, **options):
        augmented.append(len(pixels))
        return draw_views(pixels, *rest, **options)

    monkeypatch.setattr(loop, "build_network", build_small)
    monkeypatch.setattr(loop, "draw_views", counted)
    recipe = TrainRecipe(image_size_px=32, batch_size=16, epochs=1, warmup_epochs=0, balance="weighted_loss")
    with caplog.at_level(logging.WARNING):
        trained = train(*drawn, np.arange(32), np.arange(64, 96), recipe, torch.device("cpu"))
    assert augmented == [16, 16] and len(trained.history) == 1
    assert caplog.text.count("memory is full") == 1
