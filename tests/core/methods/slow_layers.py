"""Layers in NumPy with plain loops, for oracles. Maps are (R, C, H, W)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def convolve(maps: Array, weight: Array, bias: Array | None = None, stride: int = 1, padding: int = 0) -> Array:
    """Return a convolution with a kernel (out, in, kH, kW)."""
    rows, channels, height, width = maps.shape
    out, _, tall, wide = weight.shape
    padded = np.zeros((rows, channels, height + 2 * padding, width + 2 * padding))
    padded[:, :, padding : padding + height, padding : padding + width] = maps
    size = ((height + 2 * padding - tall) // stride + 1, (width + 2 * padding - wide) // stride + 1)
    result = np.zeros((rows, out, *size))
    for row in range(rows):
        for channel in range(out):
            for y in range(size[0]):
                for x in range(size[1]):
                    window = padded[row, :, y * stride : y * stride + tall, x * stride : x * stride + wide]
                    result[row, channel, y, x] = (window * weight[channel]).sum()
    return result if bias is None else result + bias[None, :, None, None]


def convolve_transposed(maps: Array, weight: Array, bias: Array, stride: int, padding: int) -> Array:
    """Return a transposed convolution with a kernel (in, out, kH, kW): every element paints its kernel."""
    rows, channels, height, width = maps.shape
    _, out, tall, wide = weight.shape
    canvas = np.zeros((rows, out, (height - 1) * stride + tall, (width - 1) * stride + wide))
    for row in range(rows):
        for channel in range(channels):
            for y in range(height):
                for x in range(width):
                    canvas[row, :, y * stride : y * stride + tall, x * stride : x * stride + wide] += (
                        maps[row, channel, y, x] * weight[channel]
                    )
    end_y, end_x = canvas.shape[2] - padding, canvas.shape[3] - padding
    return canvas[:, :, padding:end_y, padding:end_x] + bias[None, :, None, None]


def batch_norm(maps: Array, weight: Array, bias: Array, share: Array, eps: float = 1e-5) -> Array:
    """Return batch norm with weighted statistics; the shares of the rows add up to 1."""
    result = np.zeros_like(maps)
    for channel in range(maps.shape[1]):
        values = maps[:, channel]
        mean = sum(part * row.mean() for part, row in zip(share, values, strict=True))
        variance = sum(part * ((row - mean) ** 2).mean() for part, row in zip(share, values, strict=True))
        result[:, channel] = (values - mean) / np.sqrt(variance + eps) * weight[channel] + bias[channel]
    return result


def cross_entropy(logits: Array, target: NDArray[np.int64], share: Array) -> float:
    """Return the weighted mean of −log softmax at the target."""
    total = 0.0
    for row, label, part in zip(logits, target, share, strict=True):
        total += part * (math.log(sum(math.exp(z - max(row)) for z in row)) + max(row) - row[label])
    return total


def relu(maps: Array) -> Array:
    return np.where(maps > 0, maps, 0.0)


def leaky_relu(maps: Array, slope: float) -> Array:
    return np.where(maps > 0, maps, slope * maps)


def pool(maps: Array, size: tuple[int, int]) -> Array:
    """Return adaptive average pooling: element i is the mean from floor(i·H/h) to ceil((i+1)·H/h)."""
    height, width = maps.shape[2:]
    result = np.zeros((*maps.shape[:2], *size))
    for y in range(size[0]):
        for x in range(size[1]):
            top, bottom = y * height // size[0], -(-(y + 1) * height // size[0])
            left, right = x * width // size[1], -(-(x + 1) * width // size[1])
            result[:, :, y, x] = maps[:, :, top:bottom, left:right].mean((2, 3))
    return result


def pool_to_smaller(first: Array, second: Array) -> tuple[Array, Array]:
    """Return both maps at the smaller of their sizes."""
    size = (min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3]))
    return pool(first, size), pool(second, size)


def resize_nearest(maps: Array, size: tuple[int, int]) -> Array:
    """Return maps of another size: element i is that at floor(i·H/h)."""
    height, width = maps.shape[2:]
    rows = [y * height // size[0] for y in range(size[0])]
    columns = [x * width // size[1] for x in range(size[1])]
    return maps[:, :, rows][:, :, :, columns]
