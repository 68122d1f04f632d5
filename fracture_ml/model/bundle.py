"""A trained network with everything that is needed to use it, as bytes that run no code when they are loaded."""

import copy
import hashlib
import io
import json
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache

import torch
from torch import Tensor

from fracture_ml.core.errors import BundleMismatch, InvalidRecipe
from fracture_ml.core.recipe import PreprocessSpec, TrainRecipe
from fracture_ml.core.records import OperatingPoints
from fracture_ml.model.network import FractureNetwork, PlaceHeads

FORMAT = 3
_WITHOUT_PLACES = 2  # the format before networks could say where: read as one that cannot


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """What a model version is: weights, and what they were made with and are used with.

    `state` is the network's state dict, on the CPU; `calibration` is the JSON of what calibrates its logits.
    Raises: BundleMismatch: parts that do not fit each other.
    """

    state: Mapping[str, Tensor]
    recipe: TrainRecipe
    preprocess: PreprocessSpec
    calibration: Mapping[str, float]
    operating_points: OperatingPoints
    code_version: str
    snapshot_id: str

    def __post_init__(self):
        if self.preprocess.image_size_px != self.recipe.image_size_px:
            raise BundleMismatch("The bundle's recipe and preprocessing name different image sizes: train it again.")
        expected = _without_weights().state_dict()
        if {name: tensor.shape for name, tensor in self.state.items()} != {
            name: tensor.shape for name, tensor in expected.items()
        }:
            raise BundleMismatch("The bundle's weights do not fit this code's network: use the code that wrote it.")

    def build_network(self, device: torch.device) -> FractureNetwork:
        """The network with these weights, on the device, ready for inference."""
        network = copy.deepcopy(_without_weights())
        # assign: take the tensors as they are, rather than draw weights only to overwrite them
        network.load_state_dict({name: tensor.clone() for name, tensor in self.state.items()}, assign=True)
        return network.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)

    def to_bytes(self) -> tuple[bytes, str]:
        """Tensors and JSON, nothing else, and the sha256 of it all. The same bundle gives the same bytes."""
        about = {
            "format": FORMAT,
            "recipe": self.recipe.to_json(),
            "preprocess": self.preprocess.to_json(),
            "operating_points": asdict(self.operating_points),
            "calibration": dict(self.calibration),
            "snapshot_id": self.snapshot_id,
            "code_version": self.code_version,
        }
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state.items()}
        buffer = io.BytesIO()
        torch.save({"about": json.dumps(about, sort_keys=True), "state": state}, buffer)
        data = buffer.getvalue()
        return data, hashlib.sha256(data).hexdigest()

    @classmethod
    def from_bytes(cls, data: bytes, *, expected_sha256: str) -> "Bundle":
        """The bundle in `data`, once its hash has been compared with the registry's.

        Raises: BundleMismatch: another hash, another format, or parts that are missing or do not fit.
        """
        if hashlib.sha256(data).hexdigest() != expected_sha256:
            raise BundleMismatch("The bundle's bytes are not those that were registered: restore it from a copy.")
        try:
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            about = json.loads(content["about"])
            if about["format"] == _WITHOUT_PLACES:
                heads = PlaceHeads().state_dict(prefix="places.")
                content["state"] = {**content["state"], **heads}
            elif about["format"] != FORMAT:
                raise BundleMismatch(
                    f"The bundle has format {about['format']}, this code reads {FORMAT}: update the code."
                )
            return cls(
                state=content["state"],
                recipe=TrainRecipe.from_json(about["recipe"]),
                preprocess=PreprocessSpec.from_json(about["preprocess"]),
                operating_points=OperatingPoints(**about["operating_points"]),
                calibration=about["calibration"],
                snapshot_id=about["snapshot_id"],
                code_version=about["code_version"],
            )
        except (
            pickle.UnpicklingError,
            RuntimeError,
            KeyError,
            TypeError,
            AttributeError,
            ValueError,
            InvalidRecipe,
        ) as e:
            raise BundleMismatch(f"The bundle cannot be read ({type(e).__name__}): train the model again.") from None


@cache
def _without_weights() -> FractureNetwork:
    """Its layers and the shapes of its tensors, not to be changed."""
    with torch.device("meta"):
        return FractureNetwork()
