"""The recipe's optimizer, fused, and how its steps are bounded."""

import torch

from fracture_ml.core.recipe import TrainRecipe
from fracture_ml.model.network import FractureNetwork


def new_optimizer(network: FractureNetwork, recipe: TrainRecipe) -> torch.optim.Adam:
    """Adam (Kingma and Ba, 2015), or AdamW (Loshchilov and Hutter, 2019), which lets biases and batch norm be."""
    parameters = list(network.parameters())
    if recipe.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=recipe.peak_lr, weight_decay=recipe.weight_decay, fused=True)
    weights = [parameter for parameter in parameters if parameter.ndim > 1]
    others = [parameter for parameter in parameters if parameter.ndim <= 1]
    groups = [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.peak_lr, fused=True)


def clip_in_the_step(optimizer: torch.optim.Adam, max_norm: float) -> None:
    """Have the next step divide the gradients so that their norm is at most `max_norm` (Pascanu et al., 2013).

    The fused step divides them while it reads them anyway: a pass over 23 million numbers less than clip_grad_norm_.
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    optimizer.grad_scale = (norm / max_norm).clamp(min=1.0)
