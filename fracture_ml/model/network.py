"""ResNet50 for one-channel radiographs and two classes, with its evidence for a fracture place by place."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

from fracture_ml.core.errors import WeightsUnavailable

CLASSES = ("no fracture", "fracture")
STRIDE_PX = 32  # of the network's input, for one cell of the evidence


class FractureNetwork(ResNet):
    """torchvision's ResNet50 (its state dict, name by name) with a one-channel stem and two outputs.

    The last layer is applied to every cell of the last feature map, which gives the evidence for a fracture there; the
    image's score is the mean of the cells. That is global average pooling and one linear layer, in another order.
    """

    mirrors = False  # whether the evidence is the mean of an image's and its mirror image's, at twice the cost

    def __init__(self) -> None:
        super().__init__(Bottleneck, [3, 4, 6, 3], num_classes=len(CLASSES), zero_init_residual=True)
        self.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")

    def feature_maps(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the last three stages see of float32 (B, 1, S, S) from to_model_input, the finest first.

        Returns: (B, 512, S/8, S/8), (B, 1024, S/16, S/16) and (B, 2048, S/32, S/32).
        """
        fine = self.layer2(self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(x))))))
        middle = self.layer3(fine)
        return fine, middle, self.layer4(middle)

    def evidence(self, x: Tensor) -> Tensor:
        """How much each cell speaks for a fracture, against none: float32, (B, S/32, S/32), in logits.

        The last layer is computed in float32, whatever the precision before it.

        Args: x: float32, (B, 1, S, S), from to_model_input.
        """
        evidence = self.evidence_of(self.feature_maps(x)[-1])
        if not self.mirrors:
            return evidence
        return (evidence + self.evidence_of(self.feature_maps(x.flip(3))[-1]).flip(2)) / 2

    def evidence_of(self, features: Tensor) -> Tensor:
        """The evidence, float32, (B, h, w), that the last feature map, (B, 2048, h, w), holds."""
        with torch.autocast(features.device.type, enabled=False):
            weight, bias = (part[1] - part[0] for part in (self.fc.weight.float(), self.fc.bias.float()))
            return torch.einsum("bchw,c->bhw", features.float(), weight) + bias

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, S, S) -> float32 logits (B, 2): no fracture, fracture."""
        return logits_of(self.evidence(x))


def logits_of(evidence: Tensor) -> Tensor:
    """(B, h, w) -> float32 logits (B, 2): 0 for no fracture, and the mean of the cells for a fracture."""
    margin = evidence.mean(dim=(1, 2))
    return torch.stack([torch.zeros_like(margin), margin], 1)


def fold_stem(weight: Tensor) -> Tensor:
    """The one-channel stem that equals a three-channel one fed the same image thrice: the sum over its channels.

    Args:    weight: (64, 3, 7, 7).
    Returns: (64, 1, 7, 7).
    """
    return weight.sum(dim=1, keepdim=True)


def build_network(*, initial_state: Mapping[str, Tensor] | None = None) -> FractureNetwork:
    """A new network, drawn from torch's global random state, or started from a ResNet50's state dict.

    A three-channel stem is folded. A last layer for another number of classes stays as drawn.
    Raises: WeightsUnavailable: the state is not a ResNet50's.
    """
    network = FractureNetwork()
    if initial_state is None:
        return network
    own = network.state_dict()
    state = dict(initial_state)
    if state.get("conv1.weight", own["conv1.weight"]).shape == (64, 3, 7, 7):
        state["conv1.weight"] = fold_stem(state["conv1.weight"])
    for name in ("fc.weight", "fc.bias"):
        if name not in state or state[name].shape != own[name].shape:
            state[name] = own[name]
    try:
        network.load_state_dict(state)
    except RuntimeError:
        raise WeightsUnavailable(
            "The initial weights are not a ResNet50's: give the state dict of torchvision's resnet50 (.pth)."
        ) from None
    return network
