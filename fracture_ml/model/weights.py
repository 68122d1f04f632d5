"""Where a training starts from: torchvision's ImageNet weights, a file, an object of the bucket, or nothing."""

import hashlib
import io
import logging
import pickle
import re
import threading
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.models import ResNet50_Weights

from fracture_ml.core.errors import ObjectNotFound, WeightsUnavailable
from fracture_ml.model.network import build_network

log = logging.getLogger(__name__)

_PROBE_TIMEOUT_S = 5.0
_REMEDY = "set FRACTURE_INITIAL_WEIGHTS to a file of torchvision's resnet50 (.pth), to s3:<key>, or to none"


class InitialWeights(NamedTuple):
    """A ResNet50's state dict (None: train from scratch), and what was really used: it belongs into the recipe."""

    state: Mapping[str, Tensor] | None
    used: str


_NAMED_BY_KEY = re.compile(r"s3:(.*?)(?:#([0-9a-f]{64}))?", re.DOTALL)


def load_initial_weights(source: str, read_object: Callable[[str], bytes]) -> InitialWeights:
    """The weights that `source` names.

    Args:    source: none; imagenet (torchvision's, from its cache or the network); auto (imagenet, else none, said in
             the log); s3:<key> (read with `read_object`); anything else is a path. A path is recorded as file:<sha256>,
             because a path of one machine says nothing on another; a key as s3:<key>#<sha256>, which may be asked for
             too, because another object may come to lie there.
    Raises:  WeightsUnavailable: they cannot be had, are others than asked for, or no ResNet50's; within seconds when
             there is no network.
    """
    if source == "none":
        return InitialWeights(None, "none")
    if source == "imagenet":
        return InitialWeights(_imagenet_state(), "imagenet")
    if source == "auto":
        try:
            return InitialWeights(_imagenet_state(), "imagenet")
        except WeightsUnavailable as error:
            log.warning("Training from scratch, without ImageNet weights. %s", error)
            return InitialWeights(None, "none")
    if source.startswith("s3:"):
        key, wanted = _NAMED_BY_KEY.fullmatch(source).groups()
        try:
            data = read_object(key)
        except ObjectNotFound:
            raise WeightsUnavailable(
                f"There is no object {key!r} with initial weights in the bucket: {_REMEDY}."
            ) from None
        found = hashlib.sha256(data).hexdigest()
        if wanted not in (None, found):
            raise WeightsUnavailable(
                f"The initial weights under {key!r} are others than the recipe began with: put those back, or tune "
                "anew."
            )
        return InitialWeights(_state_in(data), f"s3:{key}#{found}")
    try:
        data = Path(source).read_bytes()
    except OSError as error:
        raise WeightsUnavailable(
            f"The initial weights {source!r} cannot be read ({error.strerror}): {_REMEDY}."
        ) from None
    return InitialWeights(_state_in(data), f"file:{hashlib.sha256(data).hexdigest()}")


def _state_in(data: bytes) -> Mapping[str, Tensor]:
    """The state dict in a .pth file, which runs no code. Raises: WeightsUnavailable."""
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError):
        raise WeightsUnavailable(f"The initial weights are not a file of tensors alone: {_REMEDY}.") from None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsUnavailable(f"The initial weights are not a state dict: {_REMEDY}.")
    build_network(initial_state=state)  # now, not after the pixels have been decoded
    return state


def _imagenet_state() -> Mapping[str, Tensor]:
    weights = ResNet50_Weights.DEFAULT
    if not (Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[-1]).exists():
        _require_reachable(weights.url)
    try:
        return weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:  # urllib's errors are OSErrors; a wrong hash is a RuntimeError
        raise WeightsUnavailable(f"ImageNet weights cannot be fetched ({type(error).__name__}): {_REMEDY}.") from None


def _require_reachable(url: str) -> None:
    """A HEAD request in a thread of its own: the name look-up before it may hang, and has no timeout."""
    answered = threading.Event()

    def probe() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_PROBE_TIMEOUT_S).close()
            answered.set()
        except OSError as error:
            log.debug("no ImageNet weights from the network: %s", error)

    thread = threading.Thread(target=probe, name="probe-weights", daemon=True)
    thread.start()
    thread.join(_PROBE_TIMEOUT_S)
    if not answered.is_set():
        raise WeightsUnavailable(f"ImageNet weights cannot be fetched, the network does not answer: {_REMEDY}.")
