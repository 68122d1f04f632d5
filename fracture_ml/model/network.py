"""ResNet50 for one-channel radiographs and two classes, with its evidence for a fracture place by place."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

from fracture_ml.core.errors import WeightsUnavailable

CLASSES = ("no fracture", "fracture")
PLACE_STRIDES_PX = (8, 16)  # of the network's input, for one cell of the maps that say where
_RARE = -3.0  # the first answer about any place, in logits: no fracture here


class PlaceHeads(nn.Module):
    """A linear layer on each of two inner feature maps: whether a cell shows a part of a fracture, in logits.

    They learn from drawn boxes, cell by cell (training/places.py); until then every place gets the same answer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.middle = nn.Conv2d(512, 1, kernel_size=1), nn.Conv2d(1024, 1, kernel_size=1)
        for layer in (self.fine, self.middle):
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, _RARE)

    def forward(self, fine: Tensor, middle: Tensor) -> tuple[Tensor, Tensor]:
        """The feature maps of stride 8 and 16 -> float32 logits, (B, S/8, S/8) and (B, S/16, S/16).

        Computed in the precision of the heads' own weights.
        """
        dtype = self.fine.weight.dtype
        with torch.autocast(fine.device.type, enabled=False):
            return self.fine(fine.to(dtype)).squeeze(1).float(), self.middle(middle.to(dtype)).squeeze(1).float()


class Attention(NamedTuple):
    """evidence: float32, (B, S/32, S/32), in logits, whose mean is the score. shown: (B, h, w), what a person sees."""

    evidence: Tensor
    shown: Tensor


class FractureNetwork(ResNet):
    """torchvision's ResNet50 (its state dict, name by name) with a one-channel stem, two outputs, and place heads.

    The last layer is applied to every cell of the last feature map, which gives the evidence for a fracture there; the
    image's score is the mean of the cells. That is global average pooling and one linear layer, in another order.
    """

    mirrors = False  # whether everything is the mean of an image's and its mirror image's, at twice the cost

    def __init__(self) -> None:
        super().__init__(Bottleneck, [3, 4, 6, 3], num_classes=len(CLASSES), zero_init_residual=True)
        self.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.places = PlaceHeads()

    @property
    def knows_places(self) -> bool:
        """Whether the place heads have learned from boxes."""
        return bool(self.places.fine.weight.any())

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
        return self.attention(x, places=False).evidence

    def attention(self, x: Tensor, *, places: bool) -> Attention:
        """The evidence, and what to show for it: the evidence itself, or the chance of a fracture in each place.

        That chance is the geometric mean of what the two place heads say, at the finer one's grain.

        Args: x: float32, (B, 1, S, S), from to_model_input. places: show places; sensible where the network knows them.
        """
        found = self._attention(x, places)
        if not self.mirrors:
            return found
        mirrored = self._attention(x.flip(3), places)
        return Attention(*((ours + theirs.flip(2)) / 2 for ours, theirs in zip(found, mirrored, strict=True)))

    def _attention(self, x: Tensor, places: bool) -> Attention:
        *inner, last = self.feature_maps(x)
        evidence = self.evidence_of(last)
        return Attention(evidence, chance_by_place(self.places(*inner)) if places else evidence)

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


def chance_by_place(logits: Sequence[Tensor]) -> Tensor:
    """The place heads' logits, (B, h, w) and (B, h/2, w/2) -> float32, (B, h, w), 0 to 1: their geometric mean."""
    fine, middle = (F.logsigmoid(answer) for answer in logits)
    middle = F.interpolate(middle.unsqueeze(1), fine.shape[1:], mode="bilinear", align_corners=False).squeeze(1)
    return ((fine + middle) / 2).exp()


def fold_stem(weight: Tensor) -> Tensor:
    """The one-channel stem that equals a three-channel one fed the same image thrice: the sum over its channels.

    Args:    weight: (64, 3, 7, 7).
    Returns: (64, 1, 7, 7).
    """
    return weight.sum(dim=1, keepdim=True)


def build_network(*, initial_state: Mapping[str, Tensor] | None = None) -> FractureNetwork:
    """A new network, drawn from torch's global random state, or started from a ResNet50's state dict.

    A three-channel stem is folded. A last layer for another number of classes, and place heads that the state does not
    have, stay as drawn.
    Raises: WeightsUnavailable: the state is not a ResNet50's.
    """
    network = FractureNetwork()
    if initial_state is None:
        return network
    own = network.state_dict()
    state = dict(initial_state)
    if state.get("conv1.weight", own["conv1.weight"]).shape == (64, 3, 7, 7):
        state["conv1.weight"] = fold_stem(state["conv1.weight"])
    for name in ("fc.weight", "fc.bias", *(name for name in own if name.startswith("places."))):
        if name not in state or state[name].shape != own[name].shape:
            state[name] = own[name]
    try:
        network.load_state_dict(state)
    except RuntimeError:
        raise WeightsUnavailable(
            "The initial weights are not a ResNet50's: give the state dict of torchvision's resnet50 (.pth)."
        ) from None
    return network
