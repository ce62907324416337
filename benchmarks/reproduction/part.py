"""A part of a data set, in equal shares of its classes, for a shortened run: a plugin, ``--plugin``.

Which images those are depends on the labels and the sizes alone. Not in the catalog proper: accuracies on a part are
comparable with nothing.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field

from core.catalog import DATASETS, Params
from core.catalog.datasets import DatasetEntry, DatasetFacts
from core.data import Dataset, DatasetError, Split
from core.data import load as load_dataset
from core.data.holdout import held_out_indices
from core.settings import TrainingSettings
from core.specs import DatasetChoice


class PartParams(Params):
    of: str = Field("cifar100", description="The data set, with its default parameters.")
    train_images: int | None = Field(None, ge=1, description="Left out: all of them.")
    test_images: int | None = Field(None, ge=1, description="Left out: all of them.")


def load(params: PartParams, settings: TrainingSettings) -> Dataset:
    """The first splits' images, fewer of them. Raises DatasetError where more are asked for than there are."""
    choice = DatasetChoice(name=params.of)
    whole = load_dataset(choice, settings)
    return replace(whole, train=_part(whole.train, params.train_images), test=_part(whole.test, params.test_images))


def _part(split: Split, size: int | None) -> Split:
    if size is None:
        return split
    if size > len(split):
        raise DatasetError(f"{size} images of {len(split)} are asked for")
    if size == len(split):
        return split
    labels = split.labels.numpy()
    rows = torch.from_numpy(held_out_indices(labels, size / len(labels), seed=0))
    return replace(split, labels=split.labels[rows], indices=rows if split.indices is None else split.indices[rows])


def _facts(params: PartParams) -> DatasetFacts | None:
    choice = DatasetChoice(name=params.of)
    facts = DATASETS[choice.name].facts(choice.typed_params)
    if facts is None:
        return None
    train, test = params.train_images or facts.train_size, params.test_images or facts.test_size
    return replace(facts, train_size=train, test_size=test)


DATASETS.add(
    DatasetEntry(
        name="part",
        title="A part of a data set",
        summary="Some of its images, in equal shares of the classes: to see that something runs.",
        target="benchmarks.reproduction.part:load",
        params=PartParams,
        facts=_facts,
    )
)
