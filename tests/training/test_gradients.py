"""Gradients in parts where memory is short: the same loss, said once, and an end where nothing helps."""

import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fracture_ml.core.errors import OutOfMemory
from fracture_ml.core.recipe import TrainRecipe
from fracture_ml.training import loop
from fracture_ml.training.gradients import BatchGradients
from fracture_ml.training.loop import train

IMAGES = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
TRUTH = torch.arange(12) % 3 // 2


class SmallMemory(nn.Module):
    """A linear network on a device that has room for so many images."""

    def __init__(self, images_at_most: int) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.linear = nn.Linear(64, 2)
        self.images_at_most = images_at_most
        self.seen: list[int] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(images))
        if len(images) > self.images_at_most:
            raise torch.OutOfMemoryError("no memory")
        with torch.autocast("cpu", enabled=False):
            return self.linear(images.flatten(1))


@pytest.mark.parametrize("weights, smoothing", [(None, 0.0), (torch.tensor([0.6, 1.7]), 0.0), (None, 0.2)])
def test_a_batch_that_does_not_fit_is_halved_until_it_does_and_its_gradients_are_those_of_the_whole(
    weights, smoothing, caplog
):
    roomy, small = SmallMemory(100), SmallMemory(3)
    whole = BatchGradients(roomy, weights, smoothing).compute(IMAGES, TRUTH)
    gradients = BatchGradients(small, weights, smoothing)
    with caplog.at_level(logging.WARNING):
        parts = gradients.compute(IMAGES, TRUTH)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(small.linear.weight.grad, roomy.linear.weight.grad)
    assert small.seen == [12, 6, 3, 3, 3, 3]
    assert [record.getMessage() for record in caplog.records][-1].startswith("The device's memory is full at 6 images")
    small.seen.clear()
    gradients.compute(IMAGES, TRUTH)
    assert small.seen == [3, 3, 3, 3]  # it stays so


def test_a_batch_that_fits_is_computed_at_once():
    roomy = SmallMemory(100)
    BatchGradients(roomy, None, 0.0).compute(IMAGES, TRUTH)
    loss = F.cross_entropy(roomy.linear(IMAGES.flatten(1)), TRUTH)
    (expected,) = torch.autograd.grad(loss, [roomy.linear.weight])
    torch.testing.assert_close(roomy.linear.weight.grad, expected)
    assert roomy.seen == [12]


def test_a_device_without_room_for_one_image_is_a_sentence():
    with pytest.raises(OutOfMemory, match="smaller image size"):
        BatchGradients(SmallMemory(0), None, 0.0).compute(IMAGES, TRUTH)


def test_a_training_goes_on_in_parts_with_one_augmentation_for_the_whole_batch(drawn, monkeypatch, caplog):
    build, augment = loop.build_network, loop.augment
    augmented: list[int] = []

    def build_small(**options):
        network = build(**options)
        forward = network.forward

        def forward_or_out_of_memory(images: torch.Tensor) -> torch.Tensor:
            if network.training and len(images) > 8:
                raise torch.OutOfMemoryError("no memory")
            return forward(images)

        network.forward = forward_or_out_of_memory
        return network

    def counted(pixels, *rest):
        augmented.append(len(pixels))
        return augment(pixels, *rest)

    monkeypatch.setattr(loop, "build_network", build_small)
    monkeypatch.setattr(loop, "augment", counted)
    recipe = TrainRecipe(image_size_px=32, batch_size=16, epochs=1, warmup_epochs=0, balance="weighted_loss")
    with caplog.at_level(logging.WARNING):
        trained = train(*drawn, np.arange(32), np.arange(64, 96), recipe, torch.device("cpu"))
    assert augmented == [16, 16] and len(trained.history) == 1
    assert caplog.text.count("memory is full") == 1
