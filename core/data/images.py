"""A data set from a listing of image files, packed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from core.data.dataset import Augmentation, Dataset, Split
from core.data.image_files import ImageFile, Listing
from core.data.packing import packed
from core.data.statistics import Statistics


def from_listing(
    name: str, listing: Listing, image_size: int, augmentation: Augmentation, published: Statistics | None = None
) -> Dataset:
    """The data set that a listing describes, its images memory-mapped.

    Args:
        published: mean and standard deviation as the field uses them; without it, those of the training images.

    Raises DatasetError where an image is damaged or the pack cannot be written.
    """
    pack = packed(name, listing, image_size)
    statistics = published or pack.statistics
    return Dataset(
        train=Split(pack.train, _labels(listing.train)),
        test=Split(pack.test, _labels(listing.test)),
        num_classes=len(listing.classes),
        mean=statistics.mean,
        std=statistics.std,
        augmentation=augmentation,
    )


def photo_augmentation(image_size: int) -> Augmentation:
    """Flips, and shifts by up to an eighth of the side: what pad 4 is to CIFAR's 32 pixels."""
    return Augmentation(pad=image_size // 8, flip=True)


def _labels(files: tuple[ImageFile, ...]) -> Tensor:
    return torch.from_numpy(np.fromiter((file.label for file in files), dtype=np.int64, count=len(files)))
