"""What a killed training goes on from, as bytes: a sha256, then torch's own file of tensors and plain values."""

import hashlib
import io
import logging

import numpy as np
import torch

from fracture_ml.core.recipe import PreprocessSpec, TrainRecipe, hash_of_json
from fracture_ml.training.state import EpochRecord, TrainingState

log = logging.getLogger(__name__)

_FORMAT = 4  # change it whenever older bytes could no longer be read
_DIGEST_BYTES = 32


def identity_of(
    recipe: TrainRecipe,
    spec: PreprocessSpec,
    labels: np.ndarray,
    boxes: np.ndarray,
    train_rows: np.ndarray,
    validation_rows: np.ndarray,
    device: torch.device,
) -> str:
    """A hash of all that decides the weights: a checkpoint is for one training alone.

    Args:    labels: 0 or 1, (N,). boxes: float32, (N, K, 4). train_rows, validation_rows: int, row numbers.
    """
    data = [np.asarray(part, dtype=np.int64).tolist() for part in (labels, train_rows, validation_rows)]
    drawn = hashlib.sha256(np.ascontiguousarray(boxes)).hexdigest()
    return hash_of_json([_FORMAT, recipe.to_json(), spec.to_json(), data, drawn, device.type])


def to_bytes(state: TrainingState, identity: str) -> bytes:
    """The checkpoint of a training between two batches. On a GPU it waits for the device."""
    buffer = io.BytesIO(bytes(_DIGEST_BYTES))
    buffer.seek(_DIGEST_BYTES)
    content = {
        "identity": identity,
        "network": state.network.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "order_of_epoch": state.order_of_epoch,
        "distortion": state.distortion.get_state(),
        "seen": state.seen,
        "epoch": state.epoch,
        "batch": state.batch,
        "seconds": state.seconds,
        "step": state.step,
        "history": [record.to_json() for record in state.history],
        "best_epoch": state.best_epoch,
        "best_state": state.best_state,
    }
    torch.save(content, buffer)
    digest = hashlib.sha256(buffer.getbuffer()[_DIGEST_BYTES:]).digest()
    buffer.seek(0)
    buffer.write(digest)
    return buffer.getvalue()


def restore(state: TrainingState, data: bytes, identity: str) -> bool:
    """Put a checkpoint into a new state. Where it cannot be used, log why, leave the state alone and return False."""
    if hashlib.sha256(memoryview(data)[_DIGEST_BYTES:]).digest() != data[:_DIGEST_BYTES]:
        log.warning("The checkpoint is damaged: the training starts from the beginning.")
        return False
    content = torch.load(io.BytesIO(data[_DIGEST_BYTES:]), map_location="cpu", weights_only=True)
    if content["identity"] != identity:
        log.warning("The checkpoint is of another recipe or other data: the training starts from the beginning.")
        return False
    state.network.load_state_dict(content["network"])
    state.optimizer.load_state_dict(content["optimizer"])
    state.order.set_state(content["order_of_epoch"])
    state.order_of_epoch = content["order_of_epoch"]
    state.distortion.set_state(content["distortion"])
    state.seen.copy_(content["seen"])
    state.history = [EpochRecord(**record) for record in content["history"]]
    for name in ("epoch", "batch", "seconds", "step", "best_epoch", "best_state"):
        setattr(state, name, content[name])
    log.info("The training goes on from its checkpoint: epoch %d, after %d batches.", state.epoch, state.batch)
    return True
