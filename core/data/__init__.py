"""Data sets by name, as uint8 images, and the batches drawn from them.

Images lie in memory or in a memory-mapped file. Messages about a long or unusual read go to the logger ``core.data``.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable

import torch

from core.catalog import DATASETS, Params
from core.catalog.datasets import SplitParams
from core.data.dataset import Augmentation, Batch, Dataset, Split
from core.data.errors import DatasetError
from core.data.holdout import hold_out
from core.settings import TrainingSettings
from core.specs import DatasetChoice
from core.undecodable import visible

__all__ = ["Augmentation", "Batch", "Dataset", "DatasetError", "Split", "load"]

_log = logging.getLogger(__name__)


def load(choice: DatasetChoice, settings: TrainingSettings | None = None) -> Dataset:
    """Read the data set that a spec names, and hold out a validation split where it asks for one.

    Args:
        choice: The name of the data set and its parameters.
        settings: The folders of this machine; None reads them from the environment.

    Returns:
        The data set, its images as uint8 in memory or memory-mapped.

    Raises:
        DatasetError: It is missing, incomplete, damaged or not what the catalog promises.
        SettingsError: ``settings`` is None, and a variable of the environment cannot be used.
    """
    settings = settings or TrainingSettings.from_environment()
    entry = DATASETS[choice.name]
    params = choice.typed_params
    try:
        dataset = _call_loader(entry.load(), params, settings)
    except OSError as error:
        raise DatasetError(f"{choice.name} cannot be read: {visible(str(error))}") from error
    for name, split in (("training", dataset.train), ("test", dataset.test)):
        _check(f"{choice.name}'s {name} split", split, dataset.num_classes)
    if isinstance(params, SplitParams) and params.val_fraction:
        dataset = hold_out(dataset, params.val_fraction, params.val_seed)
    facts = entry.facts(params)
    if facts:
        promised = (facts.num_classes, facts.channels, facts.image_size)
        found = (dataset.num_classes, dataset.channels, dataset.image_size)
        if found != promised:
            text = f"{choice.name} has (classes, channels, image size) {found}, where the catalog promises {promised}"
            raise DatasetError(text)
        if (len(dataset.train), len(dataset.test)) != (facts.train_size, facts.test_size):
            _log.warning(
                "%s is not complete here: %d training and %d test images instead of %d and %d",
                *(choice.name, len(dataset.train), len(dataset.test), facts.train_size, facts.test_size),
            )
    return dataset


def _call_loader(loader: Callable[..., Dataset], params: Params, settings: TrainingSettings) -> Dataset:
    """Call the loader of a catalog entry, which has a parameter ``settings`` only if it reads files."""
    takes_settings = "settings" in inspect.signature(loader).parameters
    return loader(params, settings=settings) if takes_settings else loader(params)


def _check(name: str, split: Split, num_classes: int) -> None:
    """Raises DatasetError for what a training would stumble over long after, or not at all."""
    images, labels = split.images, split.labels
    if not len(labels):
        raise DatasetError(f"{name} is empty")
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[2] != images.shape[3]:
        raise DatasetError(f"{name} has images {tuple(images.shape)} of {images.dtype}, not square ones of bytes")
    if labels.dtype != torch.int64 or not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise DatasetError(f"{name} has labels that are none of the {num_classes} classes 0 to {num_classes - 1}")
