"""The gradients of one batch, in as many parts as the device has memory for."""

import logging

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fracture_ml.core.errors import OutOfMemory
from fracture_ml.model.device import autocast

log = logging.getLogger(__name__)


class BatchGradients:
    """Cross-entropy of a batch and its gradients. Where the device's memory runs out, the batch is halved for good.

    The loss stays that of the whole batch, and its gradients add up over the parts; batch norm sees the parts.
    """

    def __init__(self, network: nn.Module, class_weights: Tensor | None, label_smoothing: float) -> None:
        self._network = network
        self._weights = class_weights  # float32, (2,)
        self._smoothing = label_smoothing
        self._images_at_once: int | None = None  # None: as many as come

    def compute(self, inputs: Tensor, truth: Tensor) -> Tensor:
        """Replace the network's gradients by those of this batch's mean loss.

        Args:    inputs: float32, (B, 1, S, S), augmented. truth: int64, (B,).
        Returns: float32 logits, (B, 2), without a graph.
        Raises:  OutOfMemory: not even one image at a time.
        """
        while True:
            try:
                return self._whole(inputs, truth) if self._images_at_once is None else self._parts(inputs, truth)
            except torch.OutOfMemoryError:
                pass  # what the failed pass holds is let go of when this block ends
            self._halve(len(inputs))

    def _whole(self, inputs: Tensor, truth: Tensor) -> Tensor:
        with autocast(inputs.device):
            logits = self._network(inputs)  # (B, 2)
        self._network.zero_grad(set_to_none=True)  # now: the backward pass takes the memory that this lets go of
        F.cross_entropy(logits, truth, weight=self._weights, label_smoothing=self._smoothing).backward()
        return logits.detach()

    def _parts(self, inputs: Tensor, truth: Tensor) -> Tensor:
        total = truth.numel() if self._weights is None else self._weights[truth].sum()  # what a mean divides by
        parts = -(-len(inputs) // self._images_at_once)
        self._network.zero_grad(set_to_none=True)
        answers = []
        for part, answer in zip(inputs.tensor_split(parts), truth.tensor_split(parts), strict=True):
            with autocast(inputs.device):
                logits = self._network(part)
            loss = F.cross_entropy(
                logits, answer, weight=self._weights, label_smoothing=self._smoothing, reduction="sum"
            )
            (loss / total).backward()
            answers.append(logits.detach())
        return torch.cat(answers)

    def _halve(self, batch_size: int) -> None:
        tried = min(self._images_at_once or batch_size, batch_size)
        if tried == 1:
            raise OutOfMemory(
                "The device has no memory for one image at a time: ask for a smaller image size, or free the device."
            )
        self._images_at_once = tried // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # what lies in pieces of the wrong size
        log.warning(
            "The device's memory is full at %d images: going on with %d at a time, their gradients added up.",
            tried,
            self._images_at_once,
        )
