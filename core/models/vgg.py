"""VGG with batch norm and a single linear layer (Simonyan and Zisserman 2015, as the CIFAR literature has it)."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from core.models.key_rules import key_renamer
from core.models.network import StagedNetwork, initialise_convolutions, pool_to_features

_CHANNELS = (64, 128, 256, 512, 512)


class VGG(StagedNetwork):
    """Five stages of 3×3 convolutions; features (N, 512).

    Args:
        depths: convolutions in each stage.
        image_size: below 64 px the last two stages share one resolution, as in the CIFAR form.
    """

    def __init__(self, depths: tuple[int, ...], num_classes: int, in_channels: int, image_size: int) -> None:
        stages: list[nn.Module] = []
        before = in_channels
        for index, (channels, depth) in enumerate(zip(_CHANNELS, depths, strict=True)):
            layers: list[nn.Module] = []
            for _ in range(depth):
                layers += [nn.Conv2d(before, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
                before = channels
            pooled = 0 < index < 4 or (index == 4 and image_size >= 64)
            # The pooling comes first, so that a stage's output is what its convolutions made of it.
            stages.append(nn.Sequential(nn.MaxPool2d(2) if pooled else nn.Identity(), nn.Sequential(*layers)))
        super().__init__(nn.Identity(), stages, pool_to_features(), nn.Linear(before, num_classes), _KEYS)
        initialise_convolutions(self)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)


_KEYS = key_renamer((r"block(\d)\.", lambda found: f"layers.stage{int(found[1]) + 1}.1."))


def _of_depths(*depths: int) -> Callable[..., VGG]:
    def make(num_classes: int, in_channels: int, image_size: int) -> VGG:
        return VGG(depths, num_classes, in_channels, image_size)

    return make


vgg8 = _of_depths(1, 1, 1, 1, 1)
vgg11 = _of_depths(1, 1, 2, 2, 2)
vgg13 = _of_depths(2, 2, 2, 2, 2)
vgg16 = _of_depths(2, 2, 3, 3, 3)
vgg19 = _of_depths(2, 2, 4, 4, 4)
