"""The gradients of one batch, in as many parts as the device has memory for."""

import logging

import torch
import torch.nn.functional as F
from torch import Tensor

from fracture_ml.core.errors import OutOfMemory
from fracture_ml.model.device import autocast
from fracture_ml.model.network import FractureNetwork, logits_of
from fracture_ml.training.places import Places, loss_of_places

log = logging.getLogger(__name__)


class BatchGradients:
    """A batch's loss and its gradients. Where the device's memory runs out, the batch is halved for good.

    The loss stays that of the whole batch, and its gradients add up over the parts; batch norm sees the parts.
    """

    def __init__(
        self,
        network: FractureNetwork,
        class_weights: Tensor | None = None,
        *,
        location_weight: float = 0.0,
    ) -> None:
        """class_weights: float32, (2,). location_weight: of the loss of the places, beside that of the image."""
        self._network = network
        self._weights = class_weights
        self._location_weight = location_weight
        self._images_at_once: int | None = None  # None: as many as come

    def compute(self, inputs: Tensor, truth: Tensor, places: Places | None = None) -> Tensor:
        """Replace the network's gradients by those of this batch's mean loss, weighted by class.

        Args:    inputs: float32, (B, 1, S, S), augmented. truth: int64, (B,), 1 = fracture. places: of the same
                 images; None: where the fractures are is not asked.
        Returns: float32 logits, (B, 2), without a graph.
        Raises:  OutOfMemory: not even one image at a time.
        """
        while True:
            parts = 1 if self._images_at_once is None else -(-len(inputs) // self._images_at_once)
            try:
                return self._in_parts(inputs, truth, places, parts)
            except torch.OutOfMemoryError:
                pass  # what the failed pass holds is let go of when this block ends
            self._halve(len(inputs))

    def _in_parts(self, inputs: Tensor, truth: Tensor, places: Places | None, parts: int) -> Tensor:
        weights = torch.ones_like(truth, dtype=torch.float32) if self._weights is None else self._weights[truth]  # (B,)
        weights = weights / weights.sum()
        answers = []
        where = [None] * parts if places is None else places.tensor_split(parts)
        pieces = zip(*(of_batch.tensor_split(parts) for of_batch in (inputs, truth, weights)), where, strict=True)
        for number, (part, answer, weight, cells) in enumerate(pieces):
            with autocast(part.device):
                *inner, last = self._network.feature_maps(part)
            logits = logits_of(self._network.evidence_of(last))  # (b, 2)
            loss = F.cross_entropy(logits, answer, reduction="none")  # (b,)
            if cells is not None:
                loss = loss + self._location_weight * loss_of_places(self._network.places(*inner), cells)
            if number == 0:
                self._network.zero_grad(set_to_none=True)  # now: the backward pass takes the memory this lets go of
            (loss * weight).sum().backward()
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
