"""Description of a data set's training images, equal only for data sets that give a network the same images."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from core.tasks.classification.data.dataset import AUGMENTATION_VERSION, Dataset


def describe_training_images(dataset: Dataset) -> dict[str, Any]:
    """Return all that determines the images that a network receives, except the seed and the spec's ``augment``.

    Images are identified by the key of their pack, which depends on the size and modification time of every file, or
    else by a hash of their bytes, which takes about a second per gigabyte.
    """
    train = dataset.train
    return {
        "views_version": AUGMENTATION_VERSION,
        "images": dataset.pack_key or digest(train.images),
        "shape": list(train.images.shape),
        "rows": None if train.indices is None else digest(train.indices),
        "mean": list(dataset.mean),
        "std": list(dataset.std),
        "augmentation": asdict(dataset.augmentation),
        "middle": train.shown_size,
        "image_size": dataset.image_size,
    }


def digest(tensor: Tensor) -> str:
    """Return the SHA-256 of a tensor's bytes, from any device."""
    content = tensor.cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.sha256(content.numpy().data).hexdigest()
