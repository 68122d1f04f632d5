"""A network made ready for inference: fewer layers, weights in the precision that is fast here."""

import copy
from itertools import chain

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from fracture_ml.model.device import has_fast_bf16
from fracture_ml.model.network import FractureNetwork


def freeze_for_inference(network: FractureNetwork, device: torch.device, *, mirrors: bool = False) -> FractureNetwork:
    """A copy with every batch norm folded into its convolution, on the device, channels last.

    Folding is computed in float32; then, where bfloat16 is fast, the convolutions' weights are cast once instead of at
    every batch; so are the place heads'. The last layer stays float32. Use it under `autocast`, as any other network.
    It cannot be trained.

    Args: mirrors: average everything with what the mirror image gives.
    """
    tensors = chain(network.parameters(), network.buffers())
    frozen = copy.deepcopy(network, memo={id(tensor): tensor for tensor in tensors}).eval()  # shares every tensor
    frozen.fc = copy.deepcopy(network.fc)
    frozen.mirrors = mirrors
    dtype = torch.bfloat16 if has_fast_bf16(device) else torch.float32
    frozen.places = copy.deepcopy(network.places).to(dtype)
    _fold(frozen, "conv1", "bn1", dtype)
    for layer in (frozen.layer1, frozen.layer2, frozen.layer3, frozen.layer4):
        for block in layer:
            for number in (1, 2, 3):
                _fold(block, f"conv{number}", f"bn{number}", dtype)
            if block.downsample is not None:
                _fold(block.downsample, "0", "1", dtype)
    return frozen.to(device, memory_format=torch.channels_last).requires_grad_(False)


def _fold(parent: nn.Module, convolution: str, norm: str, dtype: torch.dtype) -> None:
    """Give the convolution new weights that hold the batch norm behind it, and put nothing in the norm's place."""
    conv, bn = getattr(parent, convolution), getattr(parent, norm)
    weight, bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
    )
    conv.weight = nn.Parameter(weight.detach().to(dtype, memory_format=torch.channels_last), requires_grad=False)
    conv.bias = nn.Parameter(bias.detach().to(dtype), requires_grad=False)
    setattr(parent, norm, nn.Identity())
