"""MobileNets: V1 for ImageNet (Howard et al. 2017), and V2 at half width, the CIFAR form of the literature."""

from __future__ import annotations

import re
from itertools import pairwise

from torch import Tensor, nn

from core.tasks.classification.models.key_rules import key_renamer
from core.tasks.classification.models.network import (
    StagedNetwork,
    conv_bn_relu,
    initialise_convolutions,
    pool_to_features,
)


class InvertedResidual(nn.Module):
    """1×1 expansion, depthwise 3×3, 1×1 projection without ReLU; the input is added if the shape is unchanged."""

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = in_channels * expansion
        self.has_shortcut = stride == 1 and in_channels == channels
        self.conv = nn.Sequential(
            *conv_bn_relu(in_channels, inner, 1),
            *conv_bn_relu(inner, inner, 3, stride, groups=inner),
            *conv_bn_relu(inner, channels, 1, relu=False),
        )

    def forward(self, maps: Tensor) -> Tensor:
        inner: Tensor = self.conv(maps)
        return maps + inner if self.has_shortcut else inner


# (stage, expansion, channels at full width, units, stride). The CIFAR form halves the image four times, not five.
_V2_GROUPS = (
    (1, 1, 16, 1, 1),
    (1, 6, 24, 2, 1),
    (2, 6, 32, 3, 2),
    (3, 6, 64, 4, 2),
    (3, 6, 96, 3, 1),
    (4, 6, 160, 3, 2),
    (4, 6, 320, 1, 1),
)


def mobilenet_v2_half(num_classes: int, in_channels: int, image_size: int) -> StagedNetwork:
    """Build MobileNetV2 at half width; features (N, 1280), because the last convolution keeps its full width."""
    units: dict[int, list[nn.Module]] = {1: [], 2: [], 3: [], 4: []}
    offsets: list[tuple[int, int]] = []
    current_channels = 16
    for stage, expansion, full, count, stride in _V2_GROUPS:
        offsets.append((stage, len(units[stage])))
        for number in range(count):
            units[stage].append(InvertedResidual(current_channels, full // 2, 1 if number else stride, expansion))
            current_channels = full // 2

    def unit(match: re.Match[str]) -> str:
        stage, offset = offsets[int(match[1])]
        return f"layers.stage{stage}.{offset + int(match[2])}."

    network = StagedNetwork(
        nn.Sequential(*conv_bn_relu(in_channels, 16, 3, 2)),
        [nn.Sequential(*stage_units) for stage_units in units.values()],
        nn.Sequential(*conv_bn_relu(current_channels, 1280, 1), *pool_to_features()),
        nn.Linear(1280, num_classes),
        key_renamer(
            (r"conv1\.", "stem."),
            (r"blocks\.(\d)\.(\d)\.", unit),
            (r"conv2\.", "head."),
            (r"classifier\.0\.", "classifier."),
        ),
    )
    initialise_convolutions(network)
    nn.init.normal_(network.linear.weight, std=0.01)
    nn.init.zeros_(network.linear.bias)
    return network


# Depthwise-separable convolutions by stage: (channels, stride).
_V1_STAGES = (
    ((64, 1), (128, 2), (128, 1)),
    ((256, 2), (256, 1)),
    ((512, 2), *(((512, 1),) * 5)),
    ((1024, 2), (1024, 1)),
)


def mobilenet_v1(num_classes: int, in_channels: int, image_size: int) -> StagedNetwork:
    """Build MobileNetV1 at full width with torch's initialisation, like distillation code; features (N, 1024)."""
    stages: list[nn.Module] = []
    current_channels = 32
    for stage in _V1_STAGES:
        units: list[nn.Module] = []
        for channels, stride in stage:
            depthwise = conv_bn_relu(current_channels, current_channels, 3, stride, groups=current_channels)
            units.append(nn.Sequential(*depthwise, *conv_bn_relu(current_channels, channels, 1)))
            current_channels = channels
        stages.append(nn.Sequential(*units))
    starts = [1]
    for stage in _V1_STAGES:
        starts.append(starts[-1] + len(stage))

    def unit(match: re.Match[str]) -> str:
        number = int(match[1])
        for index, (start, end) in enumerate(pairwise(starts), start=1):
            if start <= number < end:
                return f"layers.stage{index}.{number - start}."
        return match[0]

    return StagedNetwork(
        nn.Sequential(*conv_bn_relu(in_channels, 32, 3, 2)),
        stages,
        pool_to_features(),
        nn.Linear(1024, num_classes),
        key_renamer((r"model\.0\.", "stem."), (r"model\.(\d+)\.", unit), (r"fc\.", "classifier.")),
    )
