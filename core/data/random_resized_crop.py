"""Training views of random place, size and shape, brought to one size: what torchvision calls ``RandomResizedCrop``.

The boxes are integers made on the CPU, so that every device cuts the same ones. Cutting and resizing is two batched
matrix products with the same weights as Pillow's and torchvision's antialiased bilinear resize of each box alone.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.data.hashing import hashed_bits, hashed_randint

LEAST_AREA = 0.08
"""A box has between this share of the image's area and all of it (Szegedy et al. 2015; torchvision's default)."""

_TRIES = 10  # as torchvision; a box that fits none of these times is the whole image
_SHAPES = 1024
# Width over height between 3:4 and 4:3, evenly in the logarithm. Rounded to integers: a machine's own exponential may
# differ from another's in its last bit, and a box with it.
_RATIOS = np.rint(2**20 * np.exp(np.linspace(math.log(3 / 4), math.log(4 / 3), _SHAPES))).astype(np.int64)


def crop_table(size: int, side: int, flip: bool, data_seed: int, epoch: int) -> NDArray[np.int64]:
    """(size, 5): for each sample its box in a square image of ``side`` pixels and whether it is flipped.

    Columns are top, left, height, width, flipped.
    """
    heights, widths = np.full((2, size), side, dtype=np.int64)
    least = math.ceil(LEAST_AREA * side**2)
    waiting = np.arange(size)
    for attempt in range(_TRIES):
        bits = hashed_bits(size, data_seed, epoch, f"box {attempt}")[waiting]
        high, low = (bits >> np.uint64(32)).astype(np.int64), (bits & np.uint64(2**32 - 1)).astype(np.int64)
        area = least + ((high * (side**2 + 1 - least)) >> 32)
        ratio = _RATIOS[(low * _SHAPES) >> 32]
        # Products of integers below 2^53, one division and one root: IEEE gives every machine the same.
        width = np.rint(np.sqrt(area * ratio / 2**20)).astype(np.int64)
        height = np.rint(np.sqrt(area * 2**20 / ratio)).astype(np.int64)
        fits = (width <= side) & (height <= side)
        heights[waiting[fits]], widths[waiting[fits]] = height[fits], width[fits]
        waiting = waiting[~fits]
        if not len(waiting):
            break
    table = np.empty((size, 5), dtype=np.int64)
    for column, (extent, purpose) in enumerate(((heights, "box top"), (widths, "box left"))):
        place = hashed_randint(2**31, size, data_seed, epoch, purpose)
        table[:, column] = (place * (side - extent + 1)) >> 31
    table[:, 2], table[:, 3] = heights, widths
    table[:, 4] = hashed_randint(2, size, data_seed, epoch, "flip") if flip else 0
    return table


def crop_and_resize(images: Tensor, views: Tensor, side: int) -> Tensor:
    """Cut each image's box out, bring it to ``side`` × ``side`` pixels, and flip it where asked.

    Args:
        images: (B, channels, S, S) uint8.
        views: (B, 5), their rows of ``crop_table``, on the images' device.

    Returns:
        (B, channels, side, side) uint8: within one level of Pillow's, which rounds once more in between.
    """
    batch, channels, stored, _ = images.shape
    top, left, height, width, flipped = views.unbind(1)
    down, across = _weights(top, height, stored, side), _weights(left, width, stored, side)
    across = torch.where(flipped.view(-1, 1, 1) == 1, across.flip(1), across)
    # Channels beside rows, then beside columns: the weights are an image's, and need not be repeated for each channel.
    narrow = images.reshape(batch, channels * stored, stored).float() @ across.transpose(1, 2)
    beside = narrow.view(batch, channels, stored, side).transpose(1, 2).reshape(batch, stored, channels * side)
    out = (down @ beside).view(batch, side, channels, side).transpose(1, 2)
    return out.round().clamp_(0, 255).to(torch.uint8).contiguous()


def center_crop(images: Tensor, side: int) -> Tensor:
    """The square of ``side`` pixels in the middle of square images (N, channels, S, S)."""
    first = round((images.shape[-1] - side) / 2)
    return images[..., first : first + side, first : first + side]


def _weights(first: Tensor, length: Tensor, stored: int, side: int) -> Tensor:
    """(B, side, stored): what each pixel of a box's line gives to each pixel of the view's; rows sum to 1."""
    first, length = first.view(-1, 1, 1), length.view(-1, 1, 1)
    scale = length / side
    centre = first + scale * (torch.arange(side, device=first.device).view(1, -1, 1) + 0.5)
    pixel = torch.arange(stored, device=first.device).view(1, 1, -1)
    # A triangle as wide as two of the view's pixels, and never narrower than two of the box's: that is the antialias.
    weights = (1 - (pixel + 0.5 - centre).abs() / scale.clamp_min(1)).clamp_min_(0)
    weights = weights.where((pixel >= first) & (pixel < first + length), 0)
    return weights / weights.sum(2, keepdim=True)
