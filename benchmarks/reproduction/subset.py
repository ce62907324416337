"""A plugin (``--plugin``) with a subset of a data set, in equal shares of its classes, for shortened runs.

The choice of images depends only on the labels and the sizes. It is not in the catalog itself, since accuracies on a
subset are not comparable with any others.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field

from core.catalog import DATASETS, Params
from core.catalog.datasets import DatasetEntry, DatasetFacts
from core.settings import TrainingSettings
from core.specs import DatasetRef
from core.tasks.classification.data import Dataset, DatasetError, Split
from core.tasks.classification.data import load as load_dataset
from core.tasks.classification.data.holdout import held_out_indices


class SubsetParams(Params):
    of: str = Field("cifar100", description="The data set, with its default parameters.")
    train_images: int | None = Field(None, ge=1, description="Default: all of them.")
    test_images: int | None = Field(None, ge=1, description="Default: all of them.")


def load(params: SubsetParams, settings: TrainingSettings) -> Dataset:
    """Load the data set with fewer images. Raises DatasetError if a split has not enough images."""
    choice = DatasetRef(name=params.of)
    complete = load_dataset(choice, settings)
    return replace(
        complete, train=_subset(complete.train, params.train_images), test=_subset(complete.test, params.test_images)
    )


def _subset(split: Split, size: int | None) -> Split:
    if size is None:
        return split
    if size > len(split):
        raise DatasetError(f"the split has {len(split)} images, not {size}")
    if size == len(split):
        return split
    labels = split.labels.numpy()
    rows = torch.from_numpy(held_out_indices(labels, size / len(labels), seed=0))
    return replace(split, labels=split.labels[rows], indices=rows if split.indices is None else split.indices[rows])


def _facts(params: SubsetParams) -> DatasetFacts | None:
    choice = DatasetRef(name=params.of)
    facts = DATASETS[choice.name].facts(choice.parsed_params)
    if facts is None:
        return None
    train, test = params.train_images or facts.train_size, params.test_images or facts.test_size
    return replace(facts, train_size=train, test_size=test)


DATASETS.add(
    DatasetEntry(
        name="part",
        title="A subset of a data set",
        summary="Some of the images, in equal shares of the classes, for trial runs.",
        target="benchmarks.reproduction.subset:load",
        reads_files=True,
        params=SubsetParams,
        facts=_facts,
    )
)
