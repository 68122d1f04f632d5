"""A network made ready for inference: fewer operations, weights in the precision that is fast here."""

import copy
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.models.resnet import Bottleneck

from fracture_ml.model.device import has_fast_bf16
from fracture_ml.model.network import FractureNetwork

_ONEDNN = ("_convolution_pointwise", "_convolution_pointwise_", "_reorder_convolution_weight")


def freeze_for_inference(network: FractureNetwork, device: torch.device, *, mirrors: bool = False) -> FractureNetwork:
    """A copy with every batch norm folded into its convolution, on the device, channels last.

    Folding is computed in float32; then, where bfloat16 is fast, the convolutions' weights are cast once instead of at
    every batch; so are the place heads'. The last layer stays float32. On a CPU, a convolution and the ReLU or
    addition behind it are one operation. Use it under `autocast`, as any other network. It cannot be trained.

    Args: mirrors: average everything with what the mirror image gives.
    """
    tensors = chain(network.parameters(), network.buffers())
    frozen = copy.deepcopy(network, memo={id(tensor): tensor for tensor in tensors}).eval()  # shares every tensor
    frozen.fc = copy.deepcopy(network.fc)
    frozen.mirrors = mirrors
    dtype = torch.bfloat16 if has_fast_bf16(device) else torch.float32
    frozen.places = copy.deepcopy(network.places).to(dtype)
    fuses = device.type == "cpu" and all(hasattr(torch.ops.mkldnn, name) for name in _ONEDNN)
    _fold(frozen, "conv1", "bn1", dtype)
    if fuses:
        frozen.conv1, frozen.relu = _FusedConvolution(frozen.conv1, "relu"), nn.Identity()
    for layer in (frozen.layer1, frozen.layer2, frozen.layer3, frozen.layer4):
        for number, block in enumerate(layer):
            for convolution in (1, 2, 3):
                _fold(block, f"conv{convolution}", f"bn{convolution}", dtype)
            if block.downsample is not None:
                _fold(block.downsample, "0", "1", dtype)
            if fuses:
                layer[number] = _FusedBottleneck(block)
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


class _FusedConvolution(nn.Module):
    """A convolution and what follows it, in one pass over memory: oneDNN's, by the operations torch.compile emits.

    torch offers them under private names only, so `freeze_for_inference` asks whether they are there. To compile would
    need a C++ compiler on every machine that scores, and its time at every start (docs/LOG.md).
    """

    def __init__(self, convolution: nn.Conv2d, then: str) -> None:
        """then: "relu" or "none"."""
        super().__init__()
        self.register_buffer("weight", convolution.weight.detach())
        self.register_buffer("bias", convolution.bias.detach())
        self._where = (convolution.padding, convolution.stride, convolution.dilation, convolution.groups)
        self._then = then

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.bias.dtype)
        convolve = torch.ops.mkldnn._convolution_pointwise
        return convolve(x, self._laid_out(x), self.bias, *self._where, self._then, [], "")

    def add_to(self, total: Tensor, x: Tensor) -> Tensor:
        """ReLU of `total` + convolution, written over `total`."""
        add = torch.ops.mkldnn._convolution_pointwise_.binary
        return add(total, x, self._laid_out(x), self.bias, *self._where, "add", 1.0, "relu", [], "")

    def _laid_out(self, x: Tensor) -> Tensor:
        """The weights in oneDNN's order of memory, kept from the first batch on, whose size it is chosen for.

        Inputs of another size get the same result; threads that begin together lay them out twice.
        """
        weight = self.weight
        if not weight.is_mkldnn:
            weight = torch.ops.mkldnn._reorder_convolution_weight(weight, *self._where, list(x.shape))
            self.weight = weight
        return weight


class _FusedBottleneck(nn.Module):
    """torchvision's residual block of three folded convolutions. It writes over its input where that is the shortcut:
    the last feature map of a stage never is, since the next stage begins with a convolution in the shortcut."""

    def __init__(self, block: Bottleneck) -> None:
        super().__init__()
        self.conv1, self.conv2 = (_FusedConvolution(conv, "relu") for conv in (block.conv1, block.conv2))
        self.conv3 = _FusedConvolution(block.conv3, "none")
        self.shortcut = nn.Identity() if block.downsample is None else _FusedConvolution(block.downsample[0], "none")

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv2(self.conv1(x))
        return self.conv3.add_to(self.shortcut(x), inner)
