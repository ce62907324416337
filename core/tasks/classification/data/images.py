"""Data sets made of image files, which are packed once."""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import Tensor

from core.catalog.datasets import ImageParams
from core.settings import TrainingSettings
from core.tasks.classification.data.augmentations.views import Augmentation
from core.tasks.classification.data.dataset import Dataset, Split
from core.tasks.classification.data.errors import DatasetError
from core.tasks.classification.data.image_files import ImageFile, Listing
from core.tasks.classification.data.packing import load_or_pack
from core.tasks.classification.data.statistics import Statistics
from core.undecodable import visible

_log = logging.getLogger(__name__)

_STORED_SIDE, _INPUT_SIDE = 8, 7
"""Ratio of the side of stored images to that of a network's input, for resized crops: 256 to 224."""


def dataset_from_listing(
    name: str,
    listing: Listing,
    image_size: int,
    augmentation: Augmentation,
    published: Statistics | None = None,
    *,
    settings: TrainingSettings,
) -> Dataset:
    """Return the data set of a listing, with memory-mapped images.

    For resized crops the stored images are larger than a network's input by a seventh of its side (256 for 224), and
    the central square is used for tests: ``Resize(256)`` and ``CenterCrop(224)`` of the published recipes.

    Skipped files and notes about the decoding are logged.

    Args:
        name: name of the data set, for the pack and messages.
        listing: the image files.
        image_size: side in pixels of the images that a network receives.
        augmentation: the random augmentation of training images.
        published: published mean and standard deviation; if None, those of the training images are computed.
        settings: the folders of this machine.

    Raises:
        DatasetError: a split has no image, an image is damaged, or the pack cannot be written.
    """
    for split, files in (("training", listing.train), ("test", listing.test)):
        if not files:
            raise DatasetError(f"{visible(str(listing.root))} contains no {split} images of {name}")
    resized_crop = augmentation.resized_crop
    stored_size = round(image_size * _STORED_SIDE / _INPUT_SIDE) if resized_crop else image_size
    pack = load_or_pack(name, listing, stored_size, settings.pack_dir)
    for sentence in listing.skipped.sentences():
        _log.warning("%s: %s", visible(str(listing.root)), sentence)
    for sentence, is_warning in pack.notes.sentences():
        _log.log(logging.WARNING if is_warning else logging.INFO, "%s: %s", visible(str(listing.root)), sentence)
    center_crop = image_size if resized_crop else None
    statistics = published or pack.statistics
    return Dataset(
        train=Split(pack.train, _labels(listing.train), center_crop=center_crop, memory_mapped=True),
        test=Split(pack.test, _labels(listing.test), center_crop=center_crop, memory_mapped=True),
        num_classes=len(listing.classes),
        mean=statistics.mean,
        std=statistics.std,
        augmentation=augmentation,
        pack_key=pack.key,
        classes=listing.classes,
        content_hash=pack.content_hash,
    )


def photo_augmentation(params: ImageParams) -> Augmentation:
    """Return flips with resized crops, or flips with shifts by up to an eighth of the side (4 px for CIFAR's 32 px)."""
    if params.views == "resized_crop":
        return Augmentation(flip=True, resized_crop=True)
    return Augmentation(pad=params.image_size // 8, flip=True)


def _labels(files: tuple[ImageFile, ...]) -> Tensor:
    return torch.from_numpy(np.fromiter((file.label for file in files), dtype=np.int64, count=len(files)))
