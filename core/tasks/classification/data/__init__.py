"""Data sets as uint8 images, and the batches drawn from them.

Images are in memory or in a memory-mapped file. Messages about a slow or unusual read go to this
module's logger.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import torch

from core.catalog import DATASETS
from core.catalog.datasets import SplitParams
from core.settings import TrainingSettings
from core.specs import DatasetRef
from core.tasks.classification.data.augmentations.views import Augmentation
from core.tasks.classification.data.dataset import Batch, Dataset, Split
from core.tasks.classification.data.errors import DatasetError
from core.tasks.classification.data.holdout import hold_out
from core.undecodable import visible

__all__ = ["Augmentation", "Batch", "Dataset", "DatasetError", "Split", "load"]

_log = logging.getLogger(__name__)


def load(choice: DatasetRef, settings: TrainingSettings) -> Dataset:
    """Read the data set that a spec names, and hold out a validation split if the spec requests one.

    Args:
        choice: name and parameters of the data set.
        settings: the folders of this machine.

    Raises:
        DatasetError: the data set is missing, incomplete, damaged, or differs from its catalog entry.
    """
    entry = DATASETS[choice.name]
    params = choice.parsed_params
    try:
        loader = entry.load()
        dataset: Dataset = loader(params, settings) if entry.reads_files else loader(params)
    except OSError as error:
        raise DatasetError(f"{choice.name} cannot be read: {visible(str(error))}") from error
    for name, split in (("training", dataset.train), ("test", dataset.test)):
        _check_split(f"{choice.name}'s {name} split", split, dataset.num_classes)
    if isinstance(params, SplitParams) and params.val_fraction:
        dataset = hold_out(dataset, params.val_fraction, params.val_seed)
        if params.evaluate == "validation" and dataset.val is not None:
            dataset = replace(dataset, test=dataset.val, val=None)
    facts = entry.facts(params)
    if facts:
        expected = (facts.num_classes, facts.channels, facts.image_size)
        actual = (dataset.num_classes, dataset.channels, dataset.image_size)
        if actual != expected:
            text = f"{choice.name} has (classes, channels, image size) {actual}, but the catalog says {expected}"
            raise DatasetError(text)
        if (len(dataset.train), len(dataset.test)) != (facts.train_size, facts.test_size):
            _log.warning(
                "%s is not complete here: %d training and %d test images instead of %d and %d",
                *(choice.name, len(dataset.train), len(dataset.test), facts.train_size, facts.test_size),
            )
    return dataset


def _check_split(name: str, split: Split, num_classes: int) -> None:
    """Raise DatasetError for a fault that a training would meet much later, or never notice."""
    images, labels = split.images, split.labels
    if not len(labels):
        raise DatasetError(f"{name} is empty")
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[2] != images.shape[3]:
        raise DatasetError(f"{name} has images {tuple(images.shape)} of {images.dtype}, not square images of uint8")
    if labels.dtype != torch.int64 or not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise DatasetError(f"{name} has labels outside the {num_classes} classes 0 to {num_classes - 1}")
