"""How wrong the evidence of a batch is: about the image, and about the place."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fracture_ml.model.network import logits_of

_FRACTURED_FROM = 0.2  # how much of a fracture a cell has to show; less is the edge of a box that was drawn by hand


def loss_of_images(evidence: Tensor, truth: Tensor, fractured: Tensor | None, location_weight: float) -> Tensor:
    """The cross-entropy of each image's score, plus `location_weight` times that of the evidence's place.

    The place's is the negative logarithm of the softmax of the evidence over the cells, summed over those that lie in a
    box: it asks for the evidence to be highest there, and leaves its level to the image's score. Nothing is asked where
    no fracture is to be seen, and nothing where nobody drew it, since then it may be in any cell.

    Args:    evidence: float32, (B, h, w), in logits. truth: int64, (B,), 1 = fracture. fractured: (B, h, w), how much
             of a fracture each cell shows, 0 to 1; None: no place is asked for.
    Returns: float32, (B,).
    """
    of_image = F.cross_entropy(logits_of(evidence), truth, reduction="none")
    if fractured is None:
        return of_image
    inside = (fractured >= _FRACTURED_FROM).flatten(1)  # (B, cells)
    shares = evidence.flatten(1).log_softmax(1)
    in_box = shares.masked_fill(~inside, torch.finfo(shares.dtype).min).logsumexp(1)  # (B,)
    return of_image - location_weight * torch.where(inside.any(1), in_box, 0.0)
