"""Which weights a recipe begins with, here."""

from fracture_ml.core.errors import WeightsUnavailable
from fracture_ml.core.recipe import TrainRecipe
from fracture_ml.model.weights import InitialWeights, load_initial_weights
from fracture_ml.steps.settings import Settings
from fracture_ml.stores import Stores


def initial_weights(stores: Stores, settings: Settings, recipe: TrainRecipe) -> InitialWeights:
    """The weights that the recipe names; "auto": those of the settings. A tuned recipe names what it was tuned with."""
    named = recipe.initial_weights
    source = settings.initial_weights if named == "auto" or named.startswith("file:") else named
    weights = load_initial_weights(source, stores.bucket.read)
    is_open = named == "auto" or (named.startswith("s3:") and weights.used.startswith(f"{named}#"))
    if not is_open and weights.used != named:
        raise WeightsUnavailable(
            f"The recipe begins with {named}, and FRACTURE_INITIAL_WEIGHTS gives {weights.used}: "
            "set it back, or tune anew."
        )
    return weights
