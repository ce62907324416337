"""ResNets for small images (He et al. 2016).

The CIFAR form (section 4.2) has 6n+2 layers in three stages. If a stage halves the image, the shortcut is a strided 1×1
convolution with batch norm, as in the distillation literature (option B), not the zero padding of the paper. The
``_cifar`` networks have the ImageNet form with a 3×3 stem and no pooling after it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from core.tasks.classification.models.key_rules import key_renamer
from core.tasks.classification.models.network import (
    StagedNetwork,
    conv_bn_relu,
    initialise_convolutions,
    pool_to_features,
)


def _shortcut(in_channels: int, channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == channels:
        return nn.Identity()
    return nn.Sequential(*conv_bn_relu(in_channels, channels, 1, stride, relu=False))


class BasicBlock(nn.Module):
    """Residual block of two 3×3 convolutions."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = _shortcut(in_channels, channels, stride)
        self.relu = nn.ReLU()  # a module, so that its input can be tapped

    def forward(self, images: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(images)))))
        activated: Tensor = self.relu(inner + self.shortcut(images))
        return activated


class Bottleneck(nn.Module):
    """Residual block of 1×1, 3×3 and 1×1 convolutions; the last one has four times the channels."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * channels)
        self.shortcut = _shortcut(in_channels, 4 * channels, stride)
        self.relu = nn.ReLU()  # a module, so that its input can be tapped

    def forward(self, images: Tensor) -> Tensor:
        inner = F.relu(self.bn1(self.conv1(images)))
        inner = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(inner)))))
        activated: Tensor = self.relu(inner + self.shortcut(images))
        return activated


class CIFARResNet(StagedNetwork):
    """A 3×3 stem followed by stages of residual blocks; each stage except the first halves the image.

    Args:
        block: the residual block.
        stem: number of channels of the stem.
        channels: number of channels of each stage, before the expansion of the block.
        blocks: number of blocks of each stage.
        num_classes: number of classes.
        in_channels: number of channels of an image.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        stem: int,
        channels: tuple[int, ...],
        blocks: tuple[int, ...],
        num_classes: int,
        in_channels: int,
    ) -> None:
        first = nn.Sequential(*conv_bn_relu(in_channels, stem, 3))
        stages: list[nn.Module] = []
        current_channels = stem
        for index, (width, count) in enumerate(zip(channels, blocks, strict=True)):
            units: list[nn.Module] = []
            for number in range(count):
                units.append(block(current_channels, width, 2 if index and not number else 1))
                current_channels = width * block.expansion
            stages.append(nn.Sequential(*units))
        super().__init__(first, stages, pool_to_features(), nn.Linear(current_channels, num_classes), _KEYS)
        initialise_convolutions(self)


_KEYS = key_renamer(
    (r"conv1\.", "stem.0."),
    (r"bn1\.", "stem.1."),
    (r"layer(\d)\.(\d+)\.downsample\.", r"layers.stage\1.\2.shortcut."),
    (r"layer(\d)\.", r"layers.stage\1."),
    (r"(fc|linear)\.", "classifier."),
)


def _of_depth(depth: int, factor: int = 1) -> Callable[..., CIFARResNet]:
    """Return a constructor of a network with 6n+2 layers.

    The wide networks (factor 4) only double the stem, as in Tian et al. 2020.
    """
    blocks = (depth - 2) // 6
    stem = 16 if factor == 1 else 32

    def make(num_classes: int, in_channels: int, image_size: int) -> CIFARResNet:
        channels = (16 * factor, 32 * factor, 64 * factor)
        return CIFARResNet(BasicBlock, stem, channels, (blocks,) * 3, num_classes, in_channels)

    return make


def _imagenet_form(
    block: type[BasicBlock] | type[Bottleneck], blocks: tuple[int, int, int, int]
) -> Callable[..., CIFARResNet]:
    def make(num_classes: int, in_channels: int, image_size: int) -> CIFARResNet:
        return CIFARResNet(block, 64, (64, 128, 256, 512), blocks, num_classes, in_channels)

    return make


resnet8 = _of_depth(8)
resnet14 = _of_depth(14)
resnet20 = _of_depth(20)
resnet32 = _of_depth(32)
resnet44 = _of_depth(44)
resnet56 = _of_depth(56)
resnet110 = _of_depth(110)
resnet8x4 = _of_depth(8, 4)
resnet32x4 = _of_depth(32, 4)
resnet18_cifar = _imagenet_form(BasicBlock, (2, 2, 2, 2))
resnet34_cifar = _imagenet_form(BasicBlock, (3, 4, 6, 3))
resnet50_cifar = _imagenet_form(Bottleneck, (3, 4, 6, 3))
resnet101_cifar = _imagenet_form(Bottleneck, (3, 4, 23, 3))
