"""What a data set's training images are, in one word: two that share it show a network the same views."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from core.data.dataset import AUGMENTATION_VERSION, Dataset


def describe_training_images(dataset: Dataset) -> dict[str, Any]:
    """All that decides the training images as a network sees them, but the seed and the spec's ``augment``.

    The images count by their content: by the key of their pack (which has every file's size and time of change), else
    by their bytes, which takes a second for a gigabyte.
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
    """SHA-256 of a tensor's bytes, wherever it lies."""
    content = tensor.cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.sha256(content.numpy().data).hexdigest()
