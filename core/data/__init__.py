"""Data sets by name, as uint8 images, and the batches drawn from them.

Images lie in memory or in a memory-mapped file. Messages about a long or unusual read go to the logger ``core.data``.
"""

from __future__ import annotations

import logging

from core.catalog import DATASETS
from core.catalog.datasets import SplitParams
from core.data.dataset import Augmentation, Batch, Dataset, Split
from core.data.errors import DatasetError
from core.data.holdout import hold_out
from core.spec import DatasetChoice

__all__ = ["Augmentation", "Batch", "Dataset", "DatasetError", "Split", "load"]

_log = logging.getLogger(__name__)


def load(choice: DatasetChoice) -> Dataset:
    """Read the data set that a spec names, and hold out a validation split where it asks for one.

    Raises DatasetError where it is missing, incomplete, damaged or not what the catalog says it is.
    """
    entry = DATASETS[choice.name]
    params = choice.typed_params
    dataset: Dataset = entry.load()(params)
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
