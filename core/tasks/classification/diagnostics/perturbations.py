"""Perturbations of test images: noise on a patch, scrambled patches, Gaussian noise and blur.

All are pure functions of (seed, sample number). The random bits are integer hashes, so every network, on any device,
receives the same images. Images are (B, channels, H, W), uint8 or floating point in 0–1; results have the same dtype.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from core.tasks.hashing import hashed_bits

NOISE_SIGMAS = (0.08, 0.12, 0.18, 0.26, 0.38)
"""Severities 1–5 of Gaussian noise, images in 0–1: ImageNet-C (Hendrycks and Dietterich 2019, arXiv 1903.12261)."""

BLUR_SIGMAS = (0.4, 0.6, 0.7, 0.8, 1.0)
"""Severities 1–5 of Gaussian blur, pixels of a 32 px image: CIFAR-10-C. The blur of larger images is proportional."""

GRID = 4  # scrambled patches per side

Samples = NDArray[np.int64]
"""Indices (B,) of the images in their split."""

Perturbation = Callable[[Tensor, Samples, int], Tensor]
"""(images, samples, seed) -> images."""


def patch_noise(images: Tensor, samples: Samples, seed: int) -> Tensor:
    """Replace a patch of half the height and width, at a random position, by uniform noise."""
    batch, channels, height, width = images.shape
    size = (max(1, height // 2), max(1, width // 2))
    position = _random(samples, seed, "patch place", 2, 16, images.device)
    noise = _random(samples, seed, "patch noise", channels * height * width, 8, images.device)
    inside = torch.ones((batch, 1, 1), dtype=torch.bool, device=images.device)
    for axis, (extent, patch) in enumerate(zip((height, width), size, strict=True)):
        first = (position[:, axis] * (extent - patch + 1)) >> 16
        offset = torch.arange(extent, device=images.device) - first.unsqueeze(1)
        within = (offset >= 0) & (offset < patch)
        inside = inside & (within.unsqueeze(2) if axis == 0 else within.unsqueeze(1))
    return torch.where(inside.unsqueeze(1), _to_dtype_of(images, noise.view_as(images).float() / 255), images)


def scramble_patches(images: Tensor, samples: Samples, seed: int) -> Tensor:
    """Permute up to 4 × 4 equal patches; border pixels that do not fill a patch stay in place."""
    batch, channels, height, width = images.shape
    rows, columns = min(GRID, height), min(GRID, width)
    tall, wide = height // rows, width // columns
    top, left = (height - rows * tall) // 2, (width - columns * wide) // 2
    order = _random(samples, seed, "scrambled", rows * columns, 32, images.device).argsort(dim=1, stable=True)
    region = (..., slice(top, top + rows * tall), slice(left, left + columns * wide))
    patches = images[region].reshape(batch, channels, rows, tall, columns, wide).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    moved = patches[torch.arange(batch, device=images.device).unsqueeze(1), order]
    out = images.clone()
    scrambled = moved.view(batch, rows, columns, channels, tall, wide).permute(0, 3, 1, 4, 2, 5)
    out[region] = scrambled.reshape(batch, channels, rows * tall, columns * wide)
    return out


def gaussian_noise(images: Tensor, samples: Samples, seed: int, severity: int) -> Tensor:
    """Add normal noise to every pixel and channel: the same pattern at every severity from 1 to 5, scaled."""
    bits = _random(samples, seed, "noise", images[0].numel(), 16, images.device)
    noise = _quantiles().to(images.device)[bits].view_as(images)
    return _to_dtype_of(images, _to_unit_range(images) + NOISE_SIGMAS[severity - 1] * noise)


def gaussian_blur(images: Tensor, severity: int) -> Tensor:
    """Convolve every channel with a normal density, with mirrored borders; severity from 1 to 5."""
    channels, height, width = images.shape[1:]
    sigma = BLUR_SIGMAS[severity - 1] * max(1.0, max(height, width) / 32)
    blurred = _to_unit_range(images)
    for axis, size in ((2, height), (3, width)):
        radius = min(math.ceil(4 * sigma), size - 1)  # mirroring cannot exceed the image
        offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
        kernel = torch.exp(-0.5 * (offsets / sigma).square())
        kernel = (kernel / kernel.sum()).float().to(images.device)
        along = (1, -1) if axis == 3 else (-1, 1)
        padding = (radius, radius, 0, 0) if axis == 3 else (0, 0, radius, radius)
        padded = F.pad(blurred, padding, mode="reflect")
        blurred = F.conv2d(padded, kernel.view(1, 1, *along).expand(channels, 1, -1, -1), groups=channels)
    return _to_dtype_of(images, blurred)


def perturbations() -> dict[str, Perturbation]:
    """Return all perturbations by name, as listed in ``core.catalog.metrics.ROBUSTNESS``."""
    by_name: dict[str, Perturbation] = {"patch": patch_noise, "scrambled": scramble_patches}
    for severity in range(1, len(NOISE_SIGMAS) + 1):
        by_name[f"noise_{severity}"] = functools.partial(gaussian_noise, severity=severity)
    for severity in range(1, len(BLUR_SIGMAS) + 1):
        by_name[f"blur_{severity}"] = functools.partial(_blur, severity=severity)
    return by_name


def _blur(images: Tensor, samples: Samples, seed: int, severity: int) -> Tensor:
    """Blur with the signature of a ``Perturbation``; samples and seed have no effect."""
    return gaussian_blur(images, severity)


def _to_unit_range(images: Tensor) -> Tensor:
    """Return images as float32 in 0–1."""
    return images.float() if images.is_floating_point() else images.float() / 255


def _to_dtype_of(images: Tensor, values: Tensor) -> Tensor:
    """Return values, clipped to 0–1, in the dtype of the images."""
    values = values.clamp(0, 1)
    return values.to(images.dtype) if images.is_floating_point() else (255 * values).round().to(images.dtype)


def _random(samples: Samples, seed: int, purpose: str, count: int, bits: int, device: torch.device) -> Tensor:
    """Return (B, count) int64 in [0, 2^bits), computed on the device; ``bits`` is a proper divisor of 64.

    SplitMix64 counts from one key per sample (from the module ``hashing`` of the data), which gives equal bits on every
    device.
    """
    keys = hashed_bits(int(samples.max()) + 1, seed, 0, f"robustness {purpose}")[samples].view(np.int64)
    lanes = 64 // bits
    counter = torch.arange(1, -(-count // lanes) + 1, device=device)
    words = _mix(torch.from_numpy(keys).to(device).unsqueeze(1) + counter * _signed(0x9E3779B97F4A7C15))
    shifts = torch.arange(lanes, device=device) * bits
    # The sign bits that >> shifts in are above the used bits.
    numbers: Tensor = ((words.unsqueeze(2) >> shifts) & ((1 << bits) - 1)).flatten(1)[:, :count]
    return numbers


def _mix(words: Tensor) -> Tensor:
    """Apply SplitMix64's finaliser; int64 overflows like uint64."""
    words = (words ^ _logical_shift(words, 30)) * _signed(0xBF58476D1CE4E5B9)
    words = (words ^ _logical_shift(words, 27)) * _signed(0x94D049BB133111EB)
    mixed: Tensor = words ^ _logical_shift(words, 31)
    return mixed


def _logical_shift(words: Tensor, by: int) -> Tensor:
    """Shift int64 to the right and fill with zeros."""
    return (words >> by) & ((1 << (64 - by)) - 1)


def _signed(word: int) -> int:
    """Return the int64 with the bits of a uint64."""
    return word - 2**64 if word >= 2**63 else word


@functools.cache
def _quantiles() -> Tensor:
    """Return the normal quantiles at 2^16 equal steps of probability, float32: a table that is equal on all devices."""
    steps = (torch.arange(2**16, dtype=torch.float64) + 0.5) / 2**16
    quantiles: Tensor = torch.special.ndtri(steps).float()
    return quantiles
