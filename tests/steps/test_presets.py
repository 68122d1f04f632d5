"""Presets and recipes: bounds are sentences, and a form's fields go over a preset."""

import pytest

from fracture_ml.core.errors import InvalidRecipe
from fracture_ml.core.recipe import TrainRecipe
from fracture_ml.steps.presets import PRESETS, plan_of


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"location_weight": -0.1}, "location_weight=-0.1: must be from 0 to 10"),
        ({"seed": 2**64}, "seed=18446744073709551616: must be from 0"),
        ({"image_size_px": 100}, "image_size_px=100: must be a multiple of 32"),
        ({"label_smoothing": 0.1}, "unknown fields label_smoothing"),
        ({"ema_decay": 0.5}, "unknown fields ema_decay"),
        ({"smallest_image_size_px": 48}, "smallest_image_size_px=48: must be 0, or a multiple of 32"),
    ],
)
def test_a_recipe_out_of_its_bounds_is_a_sentence_that_names_the_field(fields, says):
    with pytest.raises(InvalidRecipe, match=says):
        TrainRecipe.from_json(fields)


def test_a_recipe_that_was_stored_with_a_field_of_older_code_is_read_where_the_field_did_nothing():
    recipe = TrainRecipe(epochs=3)
    assert TrainRecipe.from_json(recipe.to_json() | {"ema_decay": 0.0}) == recipe


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size_px", [32, 128, 1024])
def test_every_preset_takes_every_size_of_the_form(preset, size_px):
    form = {"preset": preset, "image_size_px": size_px, "epochs": 3, "seed": 5, "metric": "balanced_accuracy"}
    work = plan_of(form)
    assert (work.recipe.image_size_px, work.recipe.epochs, work.recipe.seed) == (size_px, 3, 5)
    assert work.recipe.selection_metric == work.study.metric == "balanced_accuracy"
    assert plan_of({"preset": preset}) == PRESETS[preset]
