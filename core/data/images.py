"""A data set from a listing of image files, packed."""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import Tensor

from core.catalog.datasets import ImageParams
from core.data.dataset import Augmentation, Dataset, Split
from core.data.errors import DatasetError
from core.data.image_files import ImageFile, Listing
from core.data.packing import load_or_pack
from core.data.statistics import Statistics
from core.settings import TrainingSettings
from core.undecodable import visible

_log = logging.getLogger(__name__)

STORED, SEEN = 8, 7
"""How the side of stored images stands to that of seen ones, for resized crops: 256 to 224."""


def dataset_from_listing(
    name: str,
    listing: Listing,
    image_size: int,
    augmentation: Augmentation,
    published: Statistics | None = None,
    *,
    settings: TrainingSettings,
) -> Dataset:
    """The data set that a listing describes, its images memory-mapped.

    For resized crops the images are stored a seventh of their side larger than a network sees them (256 for 224), and
    the middle is what is tested on: the published recipes' ``Resize(256)`` and ``CenterCrop(224)``.

    Files that are left out, and images in which something is not shown, are told in the log.

    Args:
        published: mean and standard deviation as the field uses them; without it, those of the training images.

    Raises DatasetError where a split has no image, one is damaged or the pack cannot be written.
    """
    for split, files in (("training", listing.train), ("test", listing.test)):
        if not files:
            raise DatasetError(f"{visible(str(listing.root))} holds no {split} images of {name}")
    resized_crop = augmentation.resized_crop
    stored_size = round(image_size * STORED / SEEN) if resized_crop else image_size
    pack = load_or_pack(name, listing, stored_size, settings.pack_dir)
    for sentence in listing.skipped.sentences():
        _log.warning("%s: %s", visible(str(listing.root)), sentence)
    for sentence, warns in pack.notes.sentences():
        _log.log(logging.WARNING if warns else logging.INFO, "%s: %s", visible(str(listing.root)), sentence)
    middle = image_size if resized_crop else None
    statistics = published or pack.statistics
    return Dataset(
        train=Split(pack.train, _labels(listing.train), center_crop=middle, memory_mapped=True),
        test=Split(pack.test, _labels(listing.test), center_crop=middle, memory_mapped=True),
        num_classes=len(listing.classes),
        mean=statistics.mean,
        std=statistics.std,
        augmentation=augmentation,
        pack_key=pack.key,
        classes=listing.classes,
        content_hash=pack.content_hash,
    )


def photo_augmentation(params: ImageParams) -> Augmentation:
    """Flips, with resized crops, or shifts by up to an eighth of the side: what pad 4 is to CIFAR's 32 pixels."""
    if params.views == "resized_crop":
        return Augmentation(flip=True, resized_crop=True)
    return Augmentation(pad=params.image_size // 8, flip=True)


def _labels(files: tuple[ImageFile, ...]) -> Tensor:
    return torch.from_numpy(np.fromiter((file.label for file in files), dtype=np.int64, count=len(files)))
