"""Feature pyramids of detectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool, LastLevelP6P7

from core.tasks.detection.models.backbones import Body
from core.tasks.detection.models.detector import DEEPEST

Extra = Literal["pool", "p6p7", "none"]


class Pyramid(nn.Module):
    """A backbone with a feature pyramid network, whose levels have equal channels.

    A level is named after the logarithm of its stride: ``p3`` has the stride 8. The keys are those of torchvision's
    ``BackboneWithFPN``.

    Args:
        body: The backbone.
        channels: Of each level.
        extra: Levels above the last map: ``pool`` adds one, ``p6p7`` two with convolutions.
        norm_layer: The normalisation between the pyramid's convolutions; None for none.
        from_body: Whether ``p6p7`` reads the backbone's last map and not the pyramid's.

    Attributes:
        out_channels: Of each level.
        strides: The stride of each level by its name, fine to coarse.
        rois: The names of the levels on which regions are pooled: those without the extra ones.
    """

    def __init__(
        self,
        body: Body,
        channels: int,
        extra: Extra,
        norm_layer: Callable[..., nn.Module] | None = None,
        *,
        from_body: bool = False,
    ) -> None:
        super().__init__()
        self.body = body.module
        blocks: Any = None
        if extra == "pool":
            blocks = LastLevelMaxPool()
        elif extra == "p6p7":
            blocks = LastLevelP6P7(body.channels[-1] if from_body else channels, channels)
        self.fpn = FeaturePyramidNetwork(list(body.channels), channels, blocks, norm_layer)
        self.out_channels = channels
        own = body.strides
        added = [own[-1] * 2**step for step in range(1, {"pool": 1, "p6p7": 2, "none": 0}[extra] + 1)]
        self.strides = dict(zip(level_names((*own, *added)), (*own, *added), strict=True))
        self.rois = tuple(self.strides)[: len(own)]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the levels by name."""
        levels = self.with_deepest(images)
        del levels[DEEPEST]
        return levels

    def with_deepest(self, images: Tensor) -> dict[str, Tensor]:
        """Return the levels by name, then the backbone's deepest map."""
        maps = self.body(images)
        *_, deepest = maps.values()
        return {**dict(zip(self.strides, self.fpn(maps).values(), strict=True)), DEEPEST: deepest}


def level_names(strides: Sequence[int]) -> list[str]:
    """Return names of levels after their strides; a second level of one stride has a ``b`` behind it."""
    names: list[str] = []
    for stride in strides:
        name = f"p{round(math.log2(stride))}"
        while name in names:
            name += "b"
        names.append(name)
    return names
