"""Wide ResNets for small images (Zagoruyko and Komodakis 2016) with 6n+4 layers and pre-activation."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from core.tasks.classification.models.key_rules import key_renamer
from core.tasks.classification.models.network import (
    StagedNetwork,
    TapPoint,
    initialise_convolutions,
    pool_to_features,
)


class PreactivationBlock(nn.Module):
    """Residual block whose shortcut reads the activated input if the channels change, and else is the identity."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        changes = in_channels != channels
        self.shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False) if changes else None

    def forward(self, images: Tensor) -> Tensor:
        active = F.relu(self.bn1(images))
        inner: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return inner + (self.shortcut(active) if self.shortcut else images)


class WideResNet(StagedNetwork):
    """Three stages of 16, 32 and 64 times ``width`` channels; features (N, 64·width)."""

    def __init__(self, depth: int, width: int, num_classes: int, in_channels: int) -> None:
        count = (depth - 4) // 6
        stem = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        stages: list[nn.Module] = []
        current_channels = 16
        for channels, stride in ((16 * width, 1), (32 * width, 2), (64 * width, 2)):
            units = [PreactivationBlock(current_channels, channels, stride)]
            units += [PreactivationBlock(channels, channels, 1) for _ in range(count - 1)]
            stages.append(nn.Sequential(*units))
            current_channels = channels
        head = nn.Sequential(nn.BatchNorm2d(current_channels), nn.ReLU(), *pool_to_features())
        super().__init__(stem, stages, head, nn.Linear(current_channels, num_classes), _KEYS)
        initialise_convolutions(self)
        nn.init.zeros_(self.linear.bias)

    def preactivation_point(self, stage: str) -> TapPoint:
        """Return the batch norm that reads a stage's output, because the activation belongs to the next block."""
        return TapPoint(self.preactivation_norm(stage))

    def preactivation_norm(self, stage: str) -> nn.Module:
        """Return the batch norm that reads a stage's output."""
        following = dict(zip(("stem", *self.layers), (*self.layers.values(), self.head), strict=True))[stage]
        first: nn.Module = following[0]
        return first.bn1 if isinstance(first, PreactivationBlock) else first


_KEYS = key_renamer(
    (r"conv1\.", "stem."),
    (r"bn1\.", "head.0."),
    (r"block(\d)\.layer\.(\d+)\.convShortcut\.", r"layers.stage\1.\2.shortcut."),
    (r"block(\d)\.layer\.", r"layers.stage\1."),
    (r"fc\.", "classifier."),
)


def _of_shape(depth: int, width: int) -> Callable[..., WideResNet]:
    def make(num_classes: int, in_channels: int, image_size: int) -> WideResNet:
        return WideResNet(depth, width, num_classes, in_channels)

    return make


wrn_16_1 = _of_shape(16, 1)
wrn_16_2 = _of_shape(16, 2)
wrn_40_1 = _of_shape(40, 1)
wrn_40_2 = _of_shape(40, 2)
