"""Mean and standard deviation of images, for data sets without published values."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

_CHUNK = 1 << 24  # bytes counted at once; the images need not fit into memory


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation per channel, of images scaled to 0–1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class LevelCounts:
    """Histogram of the 256 levels in each channel, updated image by image.

    The statistics computed from it are exact up to the last division and do not depend on the order of the images.
    """

    def __init__(self, channels: int) -> None:
        self._counts = np.zeros((channels, 256), dtype=np.int64)

    def add(self, images: NDArray[np.uint8]) -> None:
        """Count images (N, channels, H, W)."""
        for channel in range(len(self._counts)):
            self._counts[channel] += np.bincount(images[:, channel].ravel(), minlength=256)

    def statistics(self) -> Statistics:
        """Return the statistics of all images added so far; at least one is required."""
        levels = np.arange(256)
        means, stds = [], []
        for counts in self._counts:
            # Python integers, because the square of a sum over ImageNet exceeds 64 bits.
            total, first, second = int(counts.sum()), int(counts @ levels), int(counts @ levels**2)
            means.append(first / (255 * total))
            variance = (total * second - first**2) / (255 * total) ** 2
            stds.append(max(math.sqrt(variance), 1e-6))  # a constant channel must not divide by zero
        return Statistics(tuple(means), tuple(stds))


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel of uint8 images (N, channels, H, W) scaled to 0–1."""
    counts = LevelCounts(images.shape[1])
    size = max(1, _CHUNK // images[0].numel())
    for first in range(0, len(images), size):
        counts.add(images[first : first + size].numpy())
    statistics = counts.statistics()
    return statistics.mean, statistics.std
