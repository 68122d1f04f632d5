"""Adam and AdamW as a recipe asks for them, and clipping inside their fused steps."""

import pytest
import torch

from fracture_ml.core.errors import InvalidRecipe
from fracture_ml.core.recipe import TrainRecipe
from fracture_ml.model.network import build_network
from fracture_ml.training.optimizer import clip_in_the_step, new_optimizer


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_clipping_inside_the_step_moves_the_weights_as_clipping_before_it_does(kind, weight_decay):
    start = torch.rand(4, 3, generator=torch.Generator().manual_seed(0))
    weights = [torch.nn.Parameter(start.clone()) for _ in range(2)]
    optimizers = [kind([weight], lr=0.1, weight_decay=weight_decay, fused=True) for weight in weights]
    for size in (0.01, 50.0, 3.0, 0.1):  # Adam forgets one size; what counts is how they follow each other
        for weight in weights:
            weight.grad = size * torch.arange(-6.0, 6.0).view(4, 3)
        torch.nn.utils.clip_grad_norm_([weights[0]], 1.0)
        clip_in_the_step(optimizers[1], 1.0)
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(weights[1], weights[0])
    assert not torch.equal(weights[0], start)


def test_adamw_shrinks_weights_by_the_rate_and_lets_batch_norm_and_biases_be():
    network = build_network()
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    optimizer = new_optimizer(network, TrainRecipe(optimizer="adamw", weight_decay=0.5, peak_lr=0.01))
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in network.named_parameters():
        kept = 1 - 0.01 * 0.5 if parameter.ndim > 1 else 1.0
        torch.testing.assert_close(parameter.detach(), kept * before[name])
    assert {parameter.ndim for parameter in network.parameters()} == {1, 2, 4}


def test_adam_puts_its_weight_decay_into_the_gradients():
    network = build_network()
    optimizer = new_optimizer(network, TrainRecipe(weight_decay=0.5, peak_lr=0.01))
    assert type(optimizer) is torch.optim.Adam
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5]


@pytest.mark.parametrize("change", [{"optimizer": "sgd"}, {"weight_decay": -0.1}])
def test_an_optimizer_that_there_is_not_is_refused(change):
    with pytest.raises(InvalidRecipe, match=next(iter(change))):
        TrainRecipe(**change)
