"""A data set in memory, and the batches that are drawn from it.

Order and augmentation are pure functions of (data seed, epoch, sample), by integer hashes made on the CPU: two methods
with one data seed see the same views in the same order, on any device, and a resumed run sees what it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.data.hashing import below, permutation


@dataclass(frozen=True)
class Augmentation:
    """Random shifts by up to ``pad`` pixels, zeros moving in from the border, and left–right flips."""

    pad: int = 0
    flip: bool = False


@dataclass(frozen=True)
class Split:
    """Images (N, channels, H, W) uint8 and their labels (N,) int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Split:
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    """A training and a test split with what is needed to feed them to a network.

    Attributes:
        mean, std: per channel, of the training images scaled to 0–1.
    """

    train: Split
    test: Split
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation

    @property
    def channels(self) -> int:
        return self.train.images.shape[1]

    @property
    def image_size(self) -> int:
        return self.train.images.shape[-1]

    def to(self, device: torch.device) -> Dataset:
        """The same data set with its images on a device."""
        return Dataset(
            self.train.to(device), self.test.to(device), self.num_classes, self.mean, self.std, self.augmentation
        )

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 (N, channels, H, W) to float32 with mean 0 and standard deviation 1 a channel."""
        shape = (1, -1, 1, 1)
        mean = torch.tensor(self.mean, device=images.device).view(shape)
        std = torch.tensor(self.std, device=images.device).view(shape)
        return (images.float() / 255 - mean) / std

    def batches(self, batch_size: int, data_seed: int, epoch: int, augment: bool, start: int = 0) -> Iterator[Batch]:
        """The training batches of one epoch, from batch ``start`` on; the last one holds what is left."""
        order = permutation(len(self.train), data_seed, epoch)
        augmentation = self.augmentation if augment else Augmentation()
        views = view_table(len(self.train), augmentation, data_seed, epoch)
        device = self.train.images.device
        order_there, views_there = torch.from_numpy(order).to(device), torch.from_numpy(views).to(device)
        for first in range(start * batch_size, len(order), batch_size):
            index = order_there[first : first + batch_size]
            images = augmented(self.train.images[index], views_there[index], augmentation)
            yield Batch(self.normalise(images), self.train.labels[index])


@dataclass(frozen=True)
class Batch:
    """Normalised images (B, channels, H, W) float32 and labels (B,)."""

    images: Tensor
    labels: Tensor


def view_table(size: int, augmentation: Augmentation, data_seed: int, epoch: int) -> NDArray[np.int64]:
    """(size, 3): for each sample its top and left offset in the padded image, and whether it is flipped."""
    table = np.empty((size, 3), dtype=np.int64)
    table[:, 0] = below(2 * augmentation.pad + 1, size, data_seed, epoch, "top")
    table[:, 1] = below(2 * augmentation.pad + 1, size, data_seed, epoch, "left")
    table[:, 2] = below(2, size, data_seed, epoch, "flip") if augmentation.flip else 0
    return table


def augmented(images: Tensor, views: Tensor, augmentation: Augmentation) -> Tensor:
    """Crop each image from its padded self at its own offset, and flip where asked: one gather for the batch.

    Args:
        images: (B, channels, H, W) uint8.
        views: (B, 3), their rows of ``view_table``; offsets count from the padded corner, so ``pad`` is no shift.
    """
    if augmentation == Augmentation():
        return images
    pad = augmentation.pad
    height, width = images.shape[-2:]
    padded = torch.nn.functional.pad(images, (pad, pad, pad, pad))
    rows = views[:, 0:1] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device).expand(len(images), -1)
    columns = views[:, 1:2] + torch.where(views[:, 2:3] == 1, width - 1 - columns, columns)
    sample = torch.arange(len(images), device=images.device).view(-1, 1, 1, 1)
    channel = torch.arange(images.shape[1], device=images.device).view(1, -1, 1, 1)
    return padded[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]
