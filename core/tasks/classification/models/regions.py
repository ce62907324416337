"""The logits of regions of an image, which a network has if it ends in an average over its last map and a linear layer.

The logits of an image are then the means of those of all positions, so each cell of a grid has logits too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from core.distill.features.common import pooled
from core.errors import TrainingError
from core.tasks.classification.models.network import Network, TapPoint


class RegionLogits:
    """Maps the last map of a network to the logits of regions.

    Args:
        linear: The last linear layer.
        grids: The number of cells along a side of each grid.
    """

    def __init__(self, linear: nn.Linear, grids: Sequence[int]) -> None:
        self.linear, self.grids = linear, tuple(grids)

    def logits(self, maps: Tensor) -> Tensor:
        """Return the logits (B, N, C) of the cells of all grids over maps (B, channels, height, width)."""
        means = [pooled(maps, (grid, grid)).flatten(2) for grid in self.grids]
        logits: Tensor = self.linear(torch.cat(means, 2).transpose(1, 2))
        return logits


def regions_point(network: nn.Module, grids: Sequence[int]) -> TapPoint:
    """Return the point in a network of the map that is divided into regions.

    Args:
        network: The network, not behind an ``InputAdapter``.
        grids: The number of cells along a side of each grid.

    Raises:
        TrainingError: The network does not average its last map.
    """
    averages = [module for module in network.modules() if isinstance(module, nn.AdaptiveAvgPool2d)]
    if not averages or not isinstance(network, Network):
        raise TrainingError("spec", "the network does not average a last map, so its regions have no logits")
    # A bound method, so that a copy of a tapped network reads the linear layer of the copy.
    return TapPoint(averages[-1], takes_input=True, convert=RegionLogits(network.linear, grids).logits)


def check_regions(regions: Tensor, grids: Sequence[int], logits: Tensor) -> None:
    """Check that the logits of a network are those of the whole map as one region.

    Args:
        regions: (B, N, C), of a pass in eval mode.
        grids: The number of cells along a side of each grid, the first of which is 1.
        logits: (B, C), of the same pass.

    Raises:
        TrainingError: The logits differ, because of another layer before the linear one.
    """
    if grids[0] == 1 and not torch.allclose(regions[:, 0], logits, rtol=1e-3, atol=1e-4):
        text = "between the average over its last map and its last linear layer, the network has another layer"
        raise TrainingError("spec", f"{text}, so its regions have no logits")
