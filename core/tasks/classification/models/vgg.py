"""VGG with batch norm and one linear layer (Simonyan and Zisserman 2015, in the form of the CIFAR literature)."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from core.tasks.classification.models.key_rules import key_renamer
from core.tasks.classification.models.network import StagedNetwork, initialise_convolutions, pool_to_features

_CHANNELS = (64, 128, 256, 512, 512)


class VGG(StagedNetwork):
    """Five stages of 3×3 convolutions; features (N, 512).

    Args:
        depths: number of convolutions of each stage.
        num_classes: number of classes.
        in_channels: number of channels of an image.
        image_size: side of the images in pixels; below 64 px the last two stages have the same
            resolution, as in the CIFAR form.
    """

    def __init__(self, depths: tuple[int, ...], num_classes: int, in_channels: int, image_size: int) -> None:
        stages: list[nn.Module] = []
        current_channels = in_channels
        for index, (channels, depth) in enumerate(zip(_CHANNELS, depths, strict=True)):
            layers: list[nn.Module] = []
            for _ in range(depth):
                layers += [nn.Conv2d(current_channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
                current_channels = channels
            pooled = 0 < index < 4 or (index == 4 and image_size >= 64)
            # Pooling is first, so that the output of a stage is that of its convolutions.
            stages.append(nn.Sequential(nn.MaxPool2d(2) if pooled else nn.Identity(), nn.Sequential(*layers)))
        super().__init__(nn.Identity(), stages, pool_to_features(), nn.Linear(current_channels, num_classes), _KEYS)
        initialise_convolutions(self)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)


_KEYS = key_renamer((r"block(\d)\.", lambda match: f"layers.stage{int(match[1]) + 1}.1."))


def _of_depths(*depths: int) -> Callable[..., VGG]:
    def make(num_classes: int, in_channels: int, image_size: int) -> VGG:
        return VGG(depths, num_classes, in_channels, image_size)

    return make


vgg8 = _of_depths(1, 1, 1, 1, 1)
vgg11 = _of_depths(1, 1, 2, 2, 2)
vgg13 = _of_depths(2, 2, 2, 2, 2)
vgg16 = _of_depths(2, 2, 3, 3, 3)
vgg19 = _of_depths(2, 2, 4, 4, 4)
