"""How wrong the evidence of a batch is."""

import torch
import torch.nn.functional as F
from torch import Tensor

# A cell that shows less of a fracture than the first shows none, from the second on it shows one; between them lies an
# edge that was drawn by hand, and nothing is asked.
_NOT_FRACTURED_BELOW = 0.05
_FRACTURED_FROM = 0.2


def localised_cross_entropy(evidence: Tensor, fractured: Tensor) -> Tensor:
    """Cross-entropy of "somewhere inside is a fracture", plus that of "nowhere outside is one".

    Inside are the cells that lie in a box, outside all others, and both are summed up as an image is: by LogSumExp.
    An image without a fracture has no inside, and one whose fracture nobody drew has no outside (but for what came in
    from beyond the frame): for those it is the plain cross-entropy of the image's score.

    Args:    evidence: float32, (B, h, w), in logits. fractured: (B, h, w), how much of a fracture
             each cell shows, 0 to 1.
    Returns: float32, (B,).
    """
    lowest = torch.finfo(evidence.dtype).min  # adds nothing, and has no gradient
    inside, outside = fractured >= _FRACTURED_FROM, fractured < _NOT_FRACTURED_BELOW
    somewhere, nowhere = (
        evidence.masked_fill(~cells, lowest).flatten(1).logsumexp(1) for cells in (inside, outside)
    )  # (B,), (B,)
    missed = torch.where(is_fractured(fractured), F.softplus(-somewhere), 0.0)
    return missed + F.softplus(nowhere)  # 0 where nothing is outside


def is_fractured(fractured: Tensor) -> Tensor:
    """bool, (B,): a fracture is to be seen. Args: fractured: (B, h, w), how much of it each cell shows, 0 to 1."""
    return (fractured >= _FRACTURED_FROM).flatten(1).any(1)
