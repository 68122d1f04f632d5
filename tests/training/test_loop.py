"""The training loop: it learns, repeats itself to the bit, and ends when it has to."""

import numpy as np
import pytest
import torch

from fracture_ml.core.errors import NotEnoughData, OutOfTime, TrainingDiverged
from fracture_ml.core.recipe import TrainRecipe
from fracture_ml.data.preprocess import measure_spec
from fracture_ml.evaluation.calibration import fit_temperature
from fracture_ml.model.network import build_network
from fracture_ml.training import loop
from fracture_ml.training.loop import EpochRecord, image_size, learning_rate, predict_logits, train
from fracture_ml.training.sampling import batch_sizes, shuffled_batches

CPU = torch.device("cpu")
RECIPE = TrainRecipe(image_size_px=32, batch_size=16, epochs=2, peak_lr=1e-3)
TRAIN, VALIDATION = np.arange(64), np.arange(64, 96)


def test_two_runs_with_one_seed_are_equal_to_the_bit_and_another_seed_differs(drawn):
    recipe = RECIPE.with_changes(epochs=1, balance="balanced_sampling")
    first = train(*drawn, TRAIN, VALIDATION, recipe, CPU)
    torch.rand(7)  # what others draw must not matter
    second = train(*drawn, TRAIN, VALIDATION, recipe, CPU)
    assert all(torch.equal(first.state[name], second.state[name]) for name in first.state)
    assert first.history[0].validation_loss == second.history[0].validation_loss
    other = train(*drawn, TRAIN, VALIDATION, recipe.with_changes(seed=1), CPU)
    assert not torch.equal(first.state["conv1.weight"], other.state["conv1.weight"])


def test_it_learns_what_can_be_learned_and_keeps_the_best_epoch(drawn):
    recipe = RECIPE.with_changes(
        epochs=9, rotation_degrees=5, shift_fraction=0.02, selection_metric="auroc", balance="weighted_loss"
    )
    seen: list[EpochRecord] = []
    trained = train(*drawn, TRAIN, VALIDATION, recipe, CPU, on_epoch=seen.append)
    assert trained.best_record.validation_auroc > 0.8
    assert trained.history == tuple(seen) and [record.epoch for record in seen] == list(range(1, 10))
    means = [np.mean([one.validation_auroc for one in seen[max(0, end - 3) : end]]) for end in range(1, 10)]
    assert trained.best_epoch == int(np.argmax(means)) + 1
    assert seen[-1].train_loss < seen[0].train_loss

    network = build_network(initial_state=trained.state)
    logits = predict_logits(network, drawn[0], VALIDATION, trained.spec, CPU)
    assert logits.shape == (32, 2) and logits.dtype == np.float32
    calibrated = fit_temperature(logits, drawn[1][VALIDATION]).calibrated(logits)
    assert np.mean((calibrated >= 0.5) == drawn[1][VALIDATION]) == pytest.approx(
        trained.best_record.validation_accuracy, abs=0.07
    )


def test_the_accuracy_of_an_epoch_is_that_of_calibrated_scores():
    """What a weighted loss teaches of a fracture's frequency is not how frequent it is: the raw 0.5 says nothing."""
    truth = np.arange(40) % 2
    logits = np.stack([np.zeros(40), np.where(truth == 1, 6.0, 4.0) + np.linspace(-0.4, 0.4, 40)], 1)
    measures = loop._validation_measures(logits.astype(np.float32), truth, 1)
    assert measures["validation_accuracy"] == measures["validation_balanced_accuracy"] == 1.0
    assert measures["validation_auroc"] == 1.0 and measures["validation_loss"] < 0.2


def test_a_score_does_not_depend_on_the_batch_that_it_is_in(drawn):
    network = build_network()
    spec = measure_spec(drawn[0], TRAIN)
    together = predict_logits(network, drawn[0], VALIDATION, spec, CPU)
    apart = predict_logits(network, drawn[0], VALIDATION[::-1], spec, CPU, batch=5)[::-1]
    np.testing.assert_allclose(together, apart, atol=1e-5)


@pytest.mark.parametrize("images, batch_size", [(33, 32), (65, 64), (3, 2), (5, 64), (100, 32), (7, 1), (2, 1)])
def test_every_image_comes_once_an_epoch_and_no_batch_is_tiny(images, batch_size):
    recipe = RECIPE.with_changes(batch_size=batch_size)
    rows = np.arange(images) + 10
    batches = list(shuffled_batches(rows, np.zeros(images + 10, int), recipe, torch.Generator()))
    assert sorted(torch.cat(batches).tolist()) == rows.tolist()
    sizes = [len(batch) for batch in batches]
    assert sizes == batch_sizes(images, batch_size)
    assert min(sizes) >= 2 and max(sizes) - min(sizes) <= 1 and max(sizes) <= max(batch_size, 3)


def test_balanced_sampling_shows_both_classes_equally_often():
    labels = np.array([1] * 10 + [0] * 990)
    recipe = RECIPE.with_changes(balance="balanced_sampling")
    rows = torch.cat(list(shuffled_batches(np.arange(1000), labels, recipe, torch.Generator().manual_seed(0))))
    assert len(rows) == 1000
    assert labels[rows.numpy()].mean() == pytest.approx(0.5, abs=0.05)


def test_the_schedules_warm_up_and_come_down():
    def rates(scheduler: str) -> list[float]:
        recipe = TrainRecipe(epochs=10, warmup_epochs=1, peak_lr=1.0, scheduler=scheduler)
        return [learning_rate(recipe, done) for done in (0.25, 1.0, 5.5, 10.0)]

    assert rates("cosine") == pytest.approx([0.25, 1.0, 0.5, 0.0])
    assert rates("step") == pytest.approx([0.25, 1.0, 0.1, 0.01])
    assert rates("constant") == pytest.approx([0.25, 1.0, 1.0, 1.0])


def test_the_sizes_from_the_smallest_to_the_full_one_share_the_epochs():
    growing = TrainRecipe(image_size_px=128, smallest_image_size_px=64, epochs=7)
    assert [image_size(growing, epoch) for epoch in range(1, 8)] == [64, 64, 96, 96, 128, 128, 128]
    few = growing.with_changes(epochs=2)
    assert [image_size(few, epoch) for epoch in (1, 2)] == [96, 128]  # the last one is that which scores
    small = growing.with_changes(image_size_px=32)
    for recipe in (small, small.with_changes(smallest_image_size_px=0)):
        assert {image_size(recipe, epoch) for epoch in range(1, 8)} == {32}


def test_images_that_grow_are_seen_at_each_size_and_validated_at_the_full_one(drawn, monkeypatch):
    pixels, labels, boxes = drawn
    pixels = pixels.repeat(2, axis=1).repeat(2, axis=2)  # (N, 64, 64)
    recipe = RECIPE.with_changes(
        image_size_px=64,
        smallest_image_size_px=32,
        location_weight=0.5,
        epochs=6,
        peak_lr=1e-12,
        selection_metric="auroc",
        early_stopping_epochs=1,
    )
    seen, asked = [], []
    forward = loop.FractureNetwork.feature_maps
    monkeypatch.setattr(
        loop.FractureNetwork,
        "feature_maps",
        lambda self, x: (seen if self.training else asked).append(x.shape[-1]) or forward(self, x),
    )
    trained = train(pixels, labels, boxes, TRAIN, VALIDATION, recipe, CPU)
    assert seen[:12] == [32] * 12 and set(seen[12:]) == set(asked) == {64}  # four batches an epoch
    assert len(trained.history) == max(4, trained.best_epoch + 1) < 6  # none waits in vain while the images grow


def test_a_loss_that_is_not_finite_ends_the_training_with_a_remedy(drawn):
    with pytest.raises(TrainingDiverged, match="lower the learning rate"):
        broken = {name: tensor * float("inf") for name, tensor in build_network().state_dict().items()}
        train(*drawn, TRAIN, VALIDATION, RECIPE, CPU, initial_state=broken)


def test_an_epoch_that_is_lucky_by_itself_is_not_kept(drawn, monkeypatch):
    told = iter([0.60, 0.70, 0.93, 0.71, 0.85, 0.86, 0.87, 0.80])
    measures = {"validation_loss": 0.5, "validation_accuracy": 0.5, "validation_balanced_accuracy": 0.5}
    monkeypatch.setattr(loop, "_validation_measures", lambda *_: {**measures, "validation_auroc": next(told)})
    trained = train(*drawn, TRAIN, VALIDATION, RECIPE.with_changes(epochs=8, selection_metric="auroc"), CPU)
    assert trained.best_epoch == 7 and trained.best_record.validation_auroc == 0.87


def test_early_stopping_ends_after_epochs_without_a_better_one(drawn):
    recipe = RECIPE.with_changes(epochs=5, early_stopping_epochs=1, peak_lr=1e-12, selection_metric="auroc")
    trained = train(*drawn, TRAIN, VALIDATION, recipe, CPU)
    assert len(trained.history) < 5
    assert len(trained.history) == trained.best_epoch + 1


def test_stopping_inside_an_epoch_keeps_the_epochs_that_ended(drawn):
    asked = []

    def after_six_batches() -> bool:  # an epoch has four
        asked.append(1)
        return len(asked) > 6

    trained = train(*drawn, TRAIN, VALIDATION, RECIPE, CPU, should_stop=after_six_batches)
    assert len(trained.history) == 1
    with pytest.raises(OutOfTime, match="before the first epoch"):
        train(*drawn, TRAIN, VALIDATION, RECIPE, CPU, should_stop=lambda: True)


def test_one_class_or_nothing_to_validate_on_is_said_before_training(drawn):
    with pytest.raises(NotEnoughData, match="all of one class"):
        train(*drawn, TRAIN[::2], VALIDATION, RECIPE, CPU)
    with pytest.raises(NotEnoughData, match="validate"):
        train(*drawn, TRAIN, VALIDATION[:0], RECIPE, CPU)


def test_a_validation_side_of_one_class_has_no_auroc_and_still_chooses(drawn):
    trained = train(*drawn, TRAIN, VALIDATION[::2], RECIPE.with_changes(epochs=1, selection_metric="auroc"), CPU)
    assert trained.history[0].validation_auroc is None
    assert trained.best_epoch == 1
