"""Augmentations of images with boxes: random scales and crops, and random colours.

An entry of ``core.catalog.augmentations`` for detection names in ``target``, by its stage:

- scale: a class with the method of ``ScaleAugmentation``, made with the entry's parameters.
- image: a class with the methods of ``ColourAugmentation``, made with the entry's parameters.

What happens to a sample is drawn from integer hashes of (data seed, epoch, sample) on the CPU, never from a random
generator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional

from core.catalog.detection_augmentations import ColourJitterParams, MultiScaleParams, ScaleJitterParams
from core.tasks.detection.data.resizing import ResizeRule
from core.tasks.hashing import hashed_randint

Table = NDArray[np.int64]

_LEVELS = 2**16
"""Steps of a random factor."""


@dataclass(frozen=True)
class Placement:
    """Size and crop of N images.

    Attributes:
        resized: (N, 2) int64, heights and widths of the whole images after they are resized.
        corner: (N, 2) int64, top and left of the part that is seen, in pixels of the resized images.
        shown: (N, 2) int64, heights and widths of the part that is seen.
        min_visible: Least share of a box's area that must be seen; a box of which less is seen is dropped.
    """

    resized: NDArray[np.int64]
    corner: NDArray[np.int64]
    shown: NDArray[np.int64]
    min_visible: float = 0.0

    @classmethod
    def whole(cls, resized: NDArray[np.int64]) -> Placement:
        """Return the placement of images that are not cropped."""
        return cls(resized, np.zeros_like(resized), resized)


class ScaleAugmentation(Protocol):
    """Chooses the size of an image, and the part of it that is seen."""

    def place(self, originals: NDArray[np.int64], rule: ResizeRule, data_seed: int, epoch: int) -> Placement:
        """Return size and crop of each sample.

        Args:
            originals: (N, 2), heights and widths of the images.
            rule: The size of an image without augmentation.
            data_seed: Seed of the draws.
            epoch: Counts from 0.
        """
        ...


class ColourAugmentation(Protocol):
    """Changes the colours of images one by one."""

    def table(self, size: int, data_seed: int, epoch: int) -> Table:
        """Return (size, columns): for each sample what happens to it in an epoch."""
        ...

    def apply(self, image: Tensor, row: Table) -> Tensor:
        """Return an image (3, height, width) float32 in [0, 1] with other colours.

        Args:
            image: The image.
            row: (columns,), its row of the table, on the CPU.
        """
        ...


class MultiScale:
    """A random short side for each image, as in detectron2 and torchvision's ``GeneralizedRCNNTransform``."""

    def __init__(self, params: MultiScaleParams) -> None:
        self._choices = np.array(params.choices, dtype=np.int64)

    def place(self, originals: NDArray[np.int64], rule: ResizeRule, data_seed: int, epoch: int) -> Placement:
        """Return whole images whose short side is one of the choices; the rule limits the long side."""
        number = hashed_randint(len(self._choices), len(originals), data_seed, epoch, "short side")
        return Placement.whole(rule.sizes(originals, self._choices[number]))


class ScaleJitter:
    """Large-scale jitter (Ghiasi et al. 2021): a random scale, then a random crop of at most a square.

    A smaller image is not moved: like every image it is padded on the right and below.
    """

    def __init__(self, params: ScaleJitterParams) -> None:
        self._params = params

    def place(self, originals: NDArray[np.int64], rule: ResizeRule, data_seed: int, epoch: int) -> Placement:
        """Return each image with its long side at a random multiple of the square's, and its crop."""
        params, size = self._params, len(originals)
        step = hashed_randint(_LEVELS + 1, size, data_seed, epoch, "scale")
        factor = params.min_scale + (params.max_scale - params.min_scale) * step / _LEVELS
        scale = factor * params.size / originals.max(axis=1)
        resized = np.maximum(np.rint(originals * scale[:, None]), 1).astype(np.int64)
        shown = np.minimum(resized, params.size)
        corner = np.empty_like(resized)
        for column, purpose in enumerate(("crop top", "crop left")):
            place = hashed_randint(2**31, size, data_seed, epoch, purpose)
            corner[:, column] = (place * (resized[:, column] - shown[:, column] + 1)) >> 31
        return Placement(resized, corner, shown, params.min_visible)


class ColourJitter:
    """Random brightness, contrast, saturation and hue, in this order (Pillow's definitions, as in torchvision)."""

    _FACTORS = ("brightness", "contrast", "saturation")

    def __init__(self, params: ColourJitterParams) -> None:
        self._params = params

    def table(self, size: int, data_seed: int, epoch: int) -> Table:
        """Return (size, 4): the steps of brightness, contrast, saturation and hue, each 0 to 2^16."""
        return np.stack(
            [hashed_randint(_LEVELS + 1, size, data_seed, epoch, name) for name in (*self._FACTORS, "hue")], axis=1
        )

    def apply(self, image: Tensor, row: Table) -> Tensor:
        """Return the image with other colours; a change whose parameter is 0 is left out."""
        for name, step in zip(self._FACTORS, row, strict=False):
            if greatest := getattr(self._params, name):
                image = getattr(functional, f"adjust_{name}")(image, 1 + greatest * _within_one(step))
        if self._params.hue:
            image = functional.adjust_hue(image, self._params.hue * _within_one(row[3]))
        return image


def _within_one(step: np.int64) -> float:
    """Return a random step, 0 to 2^16, as a number in [-1, 1]."""
    return 2 * int(step) / _LEVELS - 1
