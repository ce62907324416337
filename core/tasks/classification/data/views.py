"""Views of the training images: what is drawn for each sample of an epoch, and the images that a network is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.specs.augment import Augment, augmentations_of
from core.tasks.classification.data import augmentations
from core.tasks.classification.data.augmentations.views import Augmentation
from core.tasks.classification.data.random_resized_crop import center_crop, crop_and_resize, crop_table
from core.tasks.hashing import hashed_randint

if TYPE_CHECKING:
    from core.tasks.classification.data.dataset import Dataset

SECOND_VIEW = 1 << 40
"""Added to the seed of the second view, whose draws are then others. Seeds of specs are below 2^31."""


class View:
    """A view of the training images in one epoch, with the tables of what happens to each.

    Args:
        dataset: the images.
        augment: the augmentations, as a validated spec has them.
        data_seed: seed of the draws.
        epoch: counts from 0.
    """

    def __init__(self, dataset: Dataset, augment: Augment, data_seed: int, epoch: int) -> None:
        size, side = len(dataset.train), dataset.train.shown_size
        pipeline = augmentations.build(augmentations_of(augment), dataset.augmentation)
        self._dataset, self._view, self._side = dataset, pipeline.view, side
        if self._view.resized_crop:
            table = crop_table(size, dataset.train.images.shape[-1], self._view.flip, data_seed, epoch)
        else:
            table = augmentation_table(size, self._view, data_seed, epoch)
        self._table = torch.from_numpy(table).to(dataset.device)
        self.drawn = pipeline.draw(size, (side, dataset.image_size), data_seed, epoch)

    def show(self, uncropped: Tensor, index: Tensor, samples: Tensor) -> Tensor:
        """Return the normalised images (B, channels, H, W) of samples, before any mixture.

        Args:
            uncropped: (B, channels, H, W) uint8, the stored images; they stay as they are.
            index: (B,), the samples, on the device.
            samples: (B,), the same on the CPU.
        """
        if self._view.resized_crop:
            images = crop_and_resize(uncropped, self._table[index], self._side)
        else:
            images = shift_and_flip(center_crop(uncropped, self._side), self._table[index], self._view)
        images = self._dataset.normalise(self.drawn.change_images(images, samples))
        return self.drawn.change_normalised(images, samples)


def augmentation_table(size: int, augmentation: Augmentation, data_seed: int, epoch: int) -> NDArray[np.int64]:
    """Return (size, 3): for each sample its top and left offset in the padded image, and 1 if it is flipped, else 0."""
    table = np.empty((size, 3), dtype=np.int64)
    table[:, 0] = hashed_randint(2 * augmentation.pad + 1, size, data_seed, epoch, "top")
    table[:, 1] = hashed_randint(2 * augmentation.pad + 1, size, data_seed, epoch, "left")
    table[:, 2] = hashed_randint(2, size, data_seed, epoch, "flip") if augmentation.flip else 0
    return table


def shift_and_flip(images: Tensor, rows: Tensor, augmentation: Augmentation) -> Tensor:
    """Crop each image from its padded form at its own offset and flip it if required: one gather for the batch.

    Args:
        images: (B, channels, H, W) uint8.
        rows: (B, 3), the images' rows of ``augmentation_table``. Offsets count from the padded corner, so the offset
            ``pad`` means no shift.
        augmentation: the augmentation that the table was made for.
    """
    if augmentation == Augmentation():
        return images
    pad = augmentation.pad
    height, width = images.shape[-2:]
    padded = torch.nn.functional.pad(images, (pad, pad, pad, pad))
    # (B, 2, channels, tops, lefts, H, W): every window of an image and of its mirror image, without a copy.
    windows = torch.stack((padded, padded.flip(3)), 1).unfold(3, height, 1).unfold(4, width, 1)
    top, left, flipped = rows.unbind(1)
    left = torch.where(flipped == 1, 2 * pad - left, left)
    return windows[torch.arange(len(images), device=images.device), flipped, :, top, left]
