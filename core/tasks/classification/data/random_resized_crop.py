"""Random crops of random position, size and aspect ratio, resized to one size (torchvision's ``RandomResizedCrop``).

The boxes are integers computed on the CPU, so that every device cuts the same ones. Cutting and resizing is two batched
matrix products with the weights that Pillow and torchvision use for an antialiased bilinear resize of each box.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.tasks.hashing import hashed_bits, hashed_randint

MIN_AREA = 0.08
"""Smallest area of a box as a share of the image (Szegedy et al. 2015; torchvision's default). The largest is 1."""

_ATTEMPTS = 10
"""Boxes drawn per image, as in torchvision; if none fits, the box is the whole image."""

_ASPECT_RATIOS = 1024


def aspect_ratios(lowest: float, highest: float) -> NDArray[np.int64]:
    """Return aspect ratios, width over height times 2^20, evenly spaced in the logarithm.

    They are integers, because the exponential functions of two machines may differ in the last bit, and the boxes would
    then differ too.
    """
    logarithms = np.linspace(math.log(lowest), math.log(highest), _ASPECT_RATIOS)
    ratios: NDArray[np.int64] = np.rint(2**20 * np.exp(logarithms)).astype(np.int64)
    return ratios


_RATIOS = aspect_ratios(3 / 4, 4 / 3)


def crop_table(size: int, side: int, flip: bool, data_seed: int, epoch: int) -> NDArray[np.int64]:
    """Return (size, 5): for each sample its box in a square image, and whether it is flipped.

    The columns are top, left, height, width (in pixels) and flipped (0 or 1).

    Args:
        size: number of samples.
        side: side of the images in pixels.
        flip: whether half of the samples are flipped.
        data_seed: seed of the boxes.
        epoch: counts from 0.
    """
    areas = math.ceil(MIN_AREA * side**2), side**2
    table = np.empty((size, 5), dtype=np.int64)
    table[:, :4] = draw_boxes(size, side, areas, _RATIOS, "box", data_seed, epoch, largest=side, fallback=side)
    table[:, 4] = hashed_randint(2, size, data_seed, epoch, "flip") if flip else 0
    return table


def draw_boxes(
    size: int,
    side: int,
    areas: tuple[int, int],
    ratios: NDArray[np.int64],
    purpose: str,
    data_seed: int,
    epoch: int,
    *,
    largest: int,
    fallback: int,
) -> NDArray[np.int64]:
    """Return (size, 4): for each sample a random box in a square image, its top, left, height and width in pixels.

    Args:
        size: number of samples.
        side: side of the images in pixels.
        areas: smallest and largest area in pixels.
        ratios: see ``aspect_ratios``.
        purpose: what the boxes are for; another purpose gives other boxes.
        data_seed: seed of the boxes.
        epoch: counts from 0.
        largest: largest height and width of a box.
        fallback: height and width where no box fits.
    """
    heights, widths = np.full((2, size), fallback, dtype=np.int64)
    min_area, max_area = areas
    pending = np.arange(size)
    for attempt in range(_ATTEMPTS):
        bits = hashed_bits(size, data_seed, epoch, f"{purpose} {attempt}")[pending]
        high, low = (bits >> np.uint64(32)).astype(np.int64), (bits & np.uint64(2**32 - 1)).astype(np.int64)
        area = min_area + ((high * (max_area + 1 - min_area)) >> 32)
        ratio = ratios[(low * _ASPECT_RATIOS) >> 32]
        # Products of integers below 2^53, one division and one root have the same IEEE result on every machine.
        width = np.rint(np.sqrt(area * ratio / 2**20)).astype(np.int64)
        height = np.rint(np.sqrt(area * 2**20 / ratio)).astype(np.int64)
        fits = (width <= largest) & (height <= largest)
        heights[pending[fits]], widths[pending[fits]] = height[fits], width[fits]
        pending = pending[~fits]
        if not len(pending):
            break
    table = np.empty((size, 4), dtype=np.int64)
    for column, (extent, place) in enumerate(((heights, "top"), (widths, "left"))):
        position = hashed_randint(2**31, size, data_seed, epoch, f"{purpose} {place}")
        table[:, column] = (position * (side - extent + 1)) >> 31
    table[:, 2], table[:, 3] = heights, widths
    return table


def crop_and_resize(images: Tensor, rows: Tensor, side: int) -> Tensor:
    """Cut a box out of each image, resize it to ``side`` × ``side`` pixels, and flip it if required.

    Args:
        images: (B, channels, S, S) uint8.
        rows: (B, 5), the images' rows of ``crop_table``, on the images' device.
        side: side of the result in pixels.

    Returns:
        (B, channels, side, side) uint8, within one level of Pillow's result, which rounds once more in between.
    """
    batch, channels, stored, _ = images.shape
    top, left, height, width, flipped = rows.unbind(1)
    down, across = _weights(top, height, stored, side), _weights(left, width, stored, side)
    across = torch.where(flipped.view(-1, 1, 1) == 1, across.flip(1), across)
    # The channels are merged with the rows, then with the columns, so that the weights are not repeated per channel.
    narrow = images.reshape(batch, channels * stored, stored).float() @ across.transpose(1, 2)
    merged = narrow.view(batch, channels, stored, side).transpose(1, 2).reshape(batch, stored, channels * side)
    out = (down @ merged).view(batch, side, channels, side).transpose(1, 2)
    return out.round().clamp_(0, 255).to(torch.uint8).contiguous()


def center_crop(images: Tensor, side: int) -> Tensor:
    """Return the central square of ``side`` pixels of square images (N, channels, S, S)."""
    first = round((images.shape[-1] - side) / 2)
    return images[..., first : first + side, first : first + side]


def _weights(first: Tensor, length: Tensor, stored: int, side: int) -> Tensor:
    """Return (B, side, stored): the weight of each stored pixel in each pixel of the result; rows sum to 1."""
    first, length = first.view(-1, 1, 1), length.view(-1, 1, 1)
    scale = length / side
    centre = first + scale * (torch.arange(side, device=first.device).view(1, -1, 1) + 0.5)
    pixel = torch.arange(stored, device=first.device).view(1, 1, -1)
    # A triangle filter as wide as two result pixels, and never narrower than two stored ones: the antialiasing.
    weights = (1 - (pixel + 0.5 - centre).abs() / scale.clamp_min(1)).clamp_min_(0)
    weights = weights.where((pixel >= first) & (pixel < first + length), 0)
    return weights / weights.sum(2, keepdim=True)
