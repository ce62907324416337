"""ShuffleNets for small images: a 1×1 stem without pooling, then three stages that each halve the image.

V1 (Zhang et al. 2018) has 3 groups, V2 (Ma et al. 2018) the size 1×, in the forms of the CIFAR literature, which keeps
torch's initialisation.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.tasks.classification.models.key_rules import key_renamer
from core.tasks.classification.models.network import StagedNetwork, conv_bn_relu, pool_to_features

_STEM = 24
_BLOCKS = (4, 8, 4)


def shuffle_channels(maps: Tensor, groups: int) -> Tensor:
    """Interleave the channels of (N, C, H, W), so that the next grouped convolution reads every group."""
    count, channels, height, width = maps.shape
    grouped = maps.reshape(count, groups, channels // groups, height, width)
    return grouped.transpose(1, 2).reshape(count, channels, height, width)


class GroupedUnit(nn.Module):
    """The unit of V1. With stride 2 the pooled input is concatenated to the result, otherwise the input is added."""

    def __init__(self, in_channels: int, channels: int, stride: int, groups: int) -> None:
        super().__init__()
        added = channels - in_channels if stride == 2 else channels
        inner = added // 4
        # The stem has too few channels for groups, as in the paper.
        self.groups = 1 if in_channels == _STEM else groups
        self.stride = stride
        self.reduce = nn.Sequential(*conv_bn_relu(in_channels, inner, 1, groups=self.groups))
        self.expand = nn.Sequential(
            *conv_bn_relu(inner, inner, 3, stride, groups=inner), *conv_bn_relu(inner, added, 1, groups=groups)[:2]
        )
        self.relu = nn.ReLU()  # a module, so that its input can be tapped

    def forward(self, maps: Tensor) -> Tensor:
        inner = self.expand(shuffle_channels(self.reduce(maps), self.groups))
        if self.stride == 2:
            joined = torch.cat([inner, F.avg_pool2d(maps, 3, stride=2, padding=1)], dim=1)
        else:
            joined = inner + maps
        activated: Tensor = self.relu(joined)
        return activated


class SplitUnit(nn.Module):
    """The unit of V2. With stride 1 half of the channels pass unchanged; with stride 2 both branches read all."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        half = channels // 2
        self.halves = stride == 1
        self.left = nn.Sequential()
        if stride == 2:
            depthwise = conv_bn_relu(in_channels, in_channels, 3, stride, groups=in_channels, relu=False)
            self.left = nn.Sequential(*depthwise, *conv_bn_relu(in_channels, half, 1))
        self.right = nn.Sequential(
            *conv_bn_relu(half if stride == 1 else in_channels, half, 1),
            *conv_bn_relu(half, half, 3, stride, groups=half, relu=False),
            *conv_bn_relu(half, half, 1),
        )

    def forward(self, maps: Tensor) -> Tensor:
        left, right = maps.chunk(2, dim=1) if self.halves else (maps, maps)
        return shuffle_channels(torch.cat([self.left(left), self.right(right)], dim=1), 2)


_STEM_AND_CLASSIFIER_RULES = ((r"conv1\.", "stem.0."), (r"bn1\.", "stem.1."), (r"linear\.", "classifier."))


def _unit_rules(first: bool, names: dict[str, str]) -> list[tuple[str, str]]:
    """Return the rules for the first unit of each stage or for the later ones."""
    number = "0" if first else r"[1-9]\d*"
    return [(rf"layer(\d)\.({number})\.{theirs}\.", rf"layers.stage\1.\2.{ours}.") for theirs, ours in names.items()]


_V1_UNIT = {
    "conv1": "reduce.0",
    "bn1": "reduce.1",
    "conv2": "expand.0",
    "bn2": "expand.1",
    "conv3": "expand.3",
    "bn3": "expand.4",
}
_V2_RIGHT = ("right.0", "right.1", "right.3", "right.4", "right.5", "right.6")
_V2_LATER = dict(zip(("conv1", "bn1", "conv2", "bn2", "conv3", "bn3"), _V2_RIGHT, strict=True))
_V2_FIRST = {"conv1": "left.0", "bn1": "left.1", "conv2": "left.2", "bn2": "left.3"} | dict(
    zip(("conv3", "bn3", "conv4", "bn4", "conv5", "bn5"), _V2_RIGHT, strict=True)
)


def shufflenet_v1(num_classes: int, in_channels: int, image_size: int) -> StagedNetwork:
    """Build ShuffleNetV1 with 3 groups; features (N, 960)."""
    stages: list[nn.Module] = []
    current_channels = _STEM
    for channels, count in zip((240, 480, 960), _BLOCKS, strict=True):
        units = [GroupedUnit(current_channels, channels, 2, groups=3)]
        units += [GroupedUnit(channels, channels, 1, groups=3) for _ in range(count - 1)]
        stages.append(nn.Sequential(*units))
        current_channels = channels
    stem = nn.Sequential(*conv_bn_relu(in_channels, _STEM, 1))
    keys = key_renamer(*_STEM_AND_CLASSIFIER_RULES, *_unit_rules(True, _V1_UNIT), *_unit_rules(False, _V1_UNIT))
    return StagedNetwork(stem, stages, pool_to_features(), nn.Linear(current_channels, num_classes), keys)


def shufflenet_v2(num_classes: int, in_channels: int, image_size: int) -> StagedNetwork:
    """Build ShuffleNetV2 of size 1×; features (N, 1024)."""
    stages: list[nn.Module] = []
    current_channels = _STEM
    for channels, count in zip((116, 232, 464), _BLOCKS, strict=True):
        units = [SplitUnit(current_channels, channels, 2)]
        units += [SplitUnit(channels, channels, 1) for _ in range(count - 1)]
        stages.append(nn.Sequential(*units))
        current_channels = channels
    stem = nn.Sequential(*conv_bn_relu(in_channels, _STEM, 1))
    head = nn.Sequential(*conv_bn_relu(current_channels, 1024, 1), *pool_to_features())
    keys = key_renamer(
        *_STEM_AND_CLASSIFIER_RULES,
        (r"conv2\.", "head.0."),
        (r"bn2\.", "head.1."),
        *_unit_rules(True, _V2_FIRST),
        *_unit_rules(False, _V2_LATER),
    )
    return StagedNetwork(stem, stages, head, nn.Linear(1024, num_classes), keys)
