"""Presets and recipes: bounds are sentences, a size fits its crops, and the labels choose between two recipes."""

import pytest

from fracture_ml.core.errors import InvalidRecipe
from fracture_ml.core.recipe import TrainRecipe
from fracture_ml.steps.presets import PRESETS, plan_of


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"crop_px": 100}, "crop_px=100: must be a multiple of 32 from 0 to image_size_px"),
        ({"crop_px": 256}, "crop_px=256: must be a multiple of 32 from 0 to image_size_px"),
        ({"crop_px": -32}, "crop_px=-32: must be a multiple"),
        ({"crops_per_image": 0}, "crops_per_image=0: must be from 1 to 100"),
        ({"fractured_crops": 0.0}, r"fractured_crops=0.0: must be between 0 and 1"),
        ({"fractured_crops": 1.0}, r"fractured_crops=1.0: must be between 0 and 1"),
        ({"crop_px": 64, "balance": "weighted_loss"}, "balance='weighted_loss': crops are balanced by fractured_crops"),
        ({"crop_px": 64, "balance": "balanced_sampling"}, "balance='balanced_sampling': crops are balanced"),
        ({"label_smoothing": 0.1}, "unknown fields label_smoothing"),
        ({"first_size_px": 96}, "unknown fields first_size_px"),
    ],
)
def test_a_recipe_out_of_its_bounds_is_a_sentence_that_names_the_field(fields, says):
    with pytest.raises(InvalidRecipe, match=says):
        TrainRecipe.from_json(fields)


def test_a_recipe_at_another_size_keeps_its_crops_where_they_are_smaller():
    recipe = TrainRecipe(image_size_px=448, crop_px=128)
    assert recipe.at_size(256) == recipe.with_changes(image_size_px=256)
    for size_px in (128, 64):
        assert recipe.at_size(size_px) == recipe.with_changes(image_size_px=size_px, crop_px=0)
    assert TrainRecipe().at_size(96) == TrainRecipe(image_size_px=96)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size_px", [32, 128, 1024])
def test_every_preset_takes_every_size_of_the_form_and_fills_both_recipes(preset, size_px):
    form = {"preset": preset, "image_size_px": size_px, "epochs": 3, "seed": 5, "metric": "balanced_accuracy"}
    work = plan_of(form)
    for recipe in (work.recipe, work.undrawn):
        assert (recipe.image_size_px, recipe.epochs, recipe.seed) == (size_px, 3, 5)
        assert recipe.selection_metric == work.study.metric == "balanced_accuracy"
    assert plan_of({"preset": preset}) == PRESETS[preset]


def test_no_preset_trains_on_crops_what_nobody_drew():
    assert [name for name, work in PRESETS.items() if work.undrawn.crop_px] == []
