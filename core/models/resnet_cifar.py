"""ResNets for CIFAR (He et al. 2016, section 4.2): 6n+2 layers in three stages of 16, 32 and 64 channels.

Where a stage halves the image, the shortcut is a strided 1×1 convolution with batch norm, as in the distillation
literature (option B), not the paper's padding with zeros.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn


class BasicBlock(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, images: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(images)))))
        return F.relu(inner + self.shortcut(images))


class CIFARResNet(nn.Module):
    """Input (N, in_channels, H, W), output logits (N, num_classes); features (N, 64)."""

    def __init__(self, depth: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        if (depth - 2) % 6:
            raise ValueError(f"a CIFAR ResNet has 6n+2 layers, not {depth}")
        blocks = (depth - 2) // 6
        self.stem = nn.Sequential(nn.Conv2d(in_channels, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        stages: list[nn.Module] = []
        before = 16
        for channels, stride in ((16, 1), (32, 2), (64, 2)):
            stage = [BasicBlock(before, channels, stride)]
            stage += [BasicBlock(channels, channels, 1) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(*stage))
            before = channels
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(before, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, images: Tensor) -> Tensor:
        """Penultimate features (N, 64)."""
        pooled: Tensor = self.pool(self.stages(self.stem(images)))
        return pooled.flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images))
        return logits


def _of_depth(depth: int) -> Callable[..., CIFARResNet]:
    def make(num_classes: int, in_channels: int, image_size: int) -> CIFARResNet:
        return CIFARResNet(depth, num_classes, in_channels)

    return make


resnet8 = _of_depth(8)
resnet14 = _of_depth(14)
resnet20 = _of_depth(20)
