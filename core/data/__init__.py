"""Data sets by name, in memory as uint8, and the batches drawn from them."""

from __future__ import annotations

from core.catalog import DATASETS
from core.data.dataset import Augmentation, Batch, Dataset, Split
from core.spec import DatasetChoice

__all__ = ["Augmentation", "Batch", "Dataset", "Split", "load"]


def load(choice: DatasetChoice) -> Dataset:
    """Read the data set that a spec names."""
    dataset: Dataset = DATASETS[choice.name].load()(choice.typed_params)
    return dataset
