"""Mean and standard deviation of images, for data sets that bring none of their own."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

_CHUNK = 1 << 24  # pixels counted at once, so that images need not fit into memory


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of uint8 images (N, channels, H, W) scaled to 0–1.

    Computed from a histogram of the 256 levels, so exact up to the last division and the same in whatever order.
    """
    channels = images.shape[1]
    counts = np.zeros((channels, 256), dtype=np.int64)
    size = max(1, _CHUNK // images[0].numel())
    for first in range(0, len(images), size):
        part = images[first : first + size].numpy()
        for channel in range(channels):
            counts[channel] += np.bincount(part[:, channel].ravel(), minlength=256)
    levels = np.arange(256)
    means, stds = [], []
    for histogram in counts:
        # Python's integers: the square of a sum over ImageNet does not fit into 64 bits.
        total, first_moment = int(histogram.sum()), int(histogram @ levels)
        second_moment = int(histogram @ levels**2)
        means.append(first_moment / (255 * total))
        variance = (total * second_moment - first_moment**2) / (255 * total) ** 2
        stds.append(max(math.sqrt(variance), 1e-6))  # a constant channel must not divide by zero
    return tuple(means), tuple(stds)
