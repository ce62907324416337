"""Mean and standard deviation of images, for data sets that bring none of their own."""

from __future__ import annotations

from torch import Tensor


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of uint8 images (N, channels, H, W) scaled to 0–1."""
    scaled = images.double() / 255
    std = scaled.std(dim=(0, 2, 3), correction=0).clamp_min(1e-6)  # a constant channel must not divide by zero
    return tuple(scaled.mean(dim=(0, 2, 3)).tolist()), tuple(std.tolist())
