"""Checkpoints: a training goes on from any batch to the same bits, and what cannot be used is said and left alone."""

import logging

import numpy as np
import pytest
import torch

from fracture_ml.core.errors import OutOfTime
from fracture_ml.core.recipe import TrainRecipe
from fracture_ml.training.loop import TrainedNetwork, train

CPU = torch.device("cpu")
TRAIN, VALIDATION = np.arange(32), np.arange(64, 72)  # two batches an epoch
RECIPE = TrainRecipe(
    image_size_px=32,
    batch_size=16,
    epochs=2,
    optimizer="adamw",
    weight_decay=0.5,
    balance="balanced_sampling",
    location_weight=0.3,
)


@pytest.fixture(scope="module")
def run(drawn) -> tuple[TrainedNetwork, list[bytes]]:
    """A training that nobody disturbed, and its checkpoint before each batch."""
    checkpoints: list[bytes] = []
    trained = train(*drawn, TRAIN, VALIDATION, RECIPE, CPU, keep=checkpoints.append, keep_every_s=0)
    assert len(checkpoints) == 4
    return trained, checkpoints


@pytest.mark.parametrize("batches_done", [1, 2])
def test_from_any_checkpoint_the_training_ends_with_the_same_bits_and_the_same_curves(drawn, run, batches_done):
    trained, checkpoints = run
    resumed = train(*drawn, TRAIN, VALIDATION, RECIPE, CPU, resume=checkpoints[batches_done])
    assert [name for name in trained.state if not torch.equal(trained.state[name], resumed.state[name])] == []
    assert resumed.best_epoch == trained.best_epoch
    assert [{**record.to_json(), "seconds": 0} for record in resumed.history] == [
        {**record.to_json(), "seconds": 0} for record in trained.history
    ]


@pytest.mark.parametrize("damage", ["a byte", "cut off"])
def test_a_damaged_checkpoint_is_said_and_the_training_starts_from_the_beginning(drawn, run, damage, caplog):
    good = run[1][2]
    middle = len(good) // 2
    damaged = good[:middle] + (bytes([good[middle] ^ 1]) + good[middle + 1 :] if damage == "a byte" else b"")
    with caplog.at_level(logging.WARNING), pytest.raises(OutOfTime):
        train(*drawn, TRAIN, VALIDATION, RECIPE, CPU, resume=damaged, should_stop=lambda: True)
    assert caplog.messages == ["The checkpoint is damaged: the training starts from the beginning."]


@pytest.mark.parametrize("other", ["recipe", "labels", "boxes"])
def test_a_checkpoint_of_another_training_is_said_and_not_used(drawn, run, other, caplog):
    pixels, labels, boxes = drawn
    recipe = RECIPE.with_changes(peak_lr=2e-3) if other == "recipe" else RECIPE
    labels = 1 - labels if other == "labels" else labels
    boxes = boxes / 2 if other == "boxes" else boxes
    with caplog.at_level(logging.WARNING), pytest.raises(OutOfTime):
        train(pixels, labels, boxes, TRAIN, VALIDATION, recipe, CPU, resume=run[1][2], should_stop=lambda: True)
    assert "another recipe or other data" in caplog.text


def test_a_training_that_is_stopped_leaves_a_checkpoint_and_one_that_had_ended_trains_nothing_more(drawn, run):
    kept: list[bytes] = []
    asked: list[int] = []

    def after_three_batches() -> bool:
        asked.append(1)
        return len(asked) > 3

    stopped = train(
        *drawn, TRAIN, VALIDATION, RECIPE, CPU, should_stop=after_three_batches, keep=kept.append, keep_every_s=3600
    )
    assert len(stopped.history) == 1 and len(kept) == 1
    assert len(train(*drawn, TRAIN, VALIDATION, RECIPE, CPU, resume=kept[0]).history) == 2
