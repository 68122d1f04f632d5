"""What changes while a network is trained: the records of its epochs, and the state that a checkpoint holds."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from fracture_ml.model.network import FractureNetwork


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One point of the curves. Losses are plain cross-entropy on both sides, whatever the training weighs.

    The training side is measured on augmented images while the weights change; the validation side after the epoch, and
    calibrated, as a bundle's scores are.
    """

    epoch: int  # from 1
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    validation_balanced_accuracy: float | None  # None where a class is missing
    validation_auroc: float | None  # None where a class is missing
    lr: float  # at the end of the epoch
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def metric(self, name: str) -> float:
        """accuracy, balanced_accuracy or auroc, on validation; where that is undefined, accuracy."""
        value = getattr(self, f"validation_{name}")
        return self.validation_accuracy if value is None else value


@dataclass(kw_only=True)
class TrainingState:
    """All that changes while a network is trained: what a checkpoint has to hold, and nothing else."""

    network: FractureNetwork
    optimizer: torch.optim.Optimizer
    order: torch.Generator  # on the CPU: which image comes when
    distortion: torch.Generator  # on the device: how it is augmented
    seen: Tensor  # float64, (3,), on the device: loss, correct, images of the running epoch; read once, when it ends
    order_of_epoch: Tensor = field(init=False)  # the state of `order` when the running epoch began
    epoch: int = 1  # the running one, from 1
    batch: int = 0  # batches of the running epoch that are done
    seconds: float = 0.0  # that the running epoch took before a checkpoint was gone on from
    step: int = 0
    history: list[EpochRecord] = field(default_factory=list)
    best_epoch: int = 0
    best_state: dict[str, Tensor] | None = None  # on the CPU

    def __post_init__(self) -> None:
        self.order_of_epoch = self.order.get_state()

    def end_epoch(self, record: EpochRecord, *, is_best: bool) -> None:
        """Record an epoch, keep its weights where they are the best, and stand at the start of the next one."""
        self.history.append(record)
        if is_best:
            self.best_epoch = record.epoch
            self._keep_weights(self.network.state_dict())
        self.epoch, self.batch, self.seconds = record.epoch + 1, 0, 0.0
        self.seen.zero_()
        self.order_of_epoch = self.order.get_state()

    def _keep_weights(self, weights: Mapping[str, Tensor]) -> None:
        if self.best_state is None:
            self.best_state = {name: value.detach().to("cpu", copy=True) for name, value in weights.items()}
        else:  # into the same memory: fresh pages cost more than the copy
            for name, value in weights.items():
                self.best_state[name].copy_(value)
