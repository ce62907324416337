"""Random erasing (Zhong et al. 2020): a rectangle of some images is set to the mean colour."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from core.catalog.augmentations import RandomErasingParams
from core.tasks.classification.data.augmentations.pipeline import Table
from core.tasks.classification.data.random_resized_crop import aspect_ratios, draw_boxes
from core.tasks.classification.data.transfer import upload
from core.tasks.hashing import hashed_randint

_RATIOS = aspect_ratios(0.3, 3.3)
"""Width over height, as in torchvision."""
_LEVELS = 2**31


class RandomErasing:
    """Random erasing of normalised images, whose mean colour is 0."""

    def __init__(self, params: RandomErasingParams) -> None:
        self._params = params

    def table(self, size: int, side: int, data_seed: int, epoch: int) -> Table:
        """Return (size, 4): top, left, height and width of the rectangle; height and width are 0 without one."""
        areas = math.ceil(self._params.min_area * side**2), math.floor(self._params.max_area * side**2)
        if areas[0] > areas[1]:  # no whole number of pixels is in the range
            return np.zeros((size, 4), dtype=np.int64)
        table = draw_boxes(size, side, areas, _RATIOS, "erased", data_seed, epoch, largest=side - 1, fallback=0)
        share = math.floor(self._params.probability * _LEVELS)
        table[hashed_randint(_LEVELS, size, data_seed, epoch, "erased at all") >= share, 2:] = 0
        return table

    def apply(self, images: Tensor, rows: Table) -> Tensor:
        """Return the images (B, channels, side, side) with their rectangles set to 0."""
        return images.masked_fill_(inside_boxes(rows, images.shape[-1], images.device), 0.0)


def inside_boxes(rows: Table, side: int, device: torch.device) -> Tensor:
    """Return (B, 1, side, side) bool: which pixels are in each image's box.

    Args:
        rows: (B, 4), top, left, height and width.
        side: side of the images in pixels.
        device: where the result is.
    """
    pixel = np.arange(side)
    top, left, height, width = rows[:, :, None].transpose(1, 0, 2)
    down, across = (pixel >= top) & (pixel < top + height), (pixel >= left) & (pixel < left + width)
    return (upload(down, device).unsqueeze(2) & upload(across, device).unsqueeze(1)).unsqueeze(1)
