"""A validation split held out of the training images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from core.tasks.classification.data.dataset import Dataset, Split
from core.tasks.classification.data.errors import DatasetError
from core.tasks.hashing import hashed_bits


def hold_out(dataset: Dataset, fraction: float, seed: int) -> Dataset:
    """Return the data set with ``round(fraction · N)`` of its training images as ``val``, stratified by class.

    The selection depends only on the labels, the fraction and the seed, so every run of an experiment holds out the
    same images. Mean and standard deviation stay those of all training images, like the published constants.

    Args:
        dataset: a data set with N training images and no validation split.
        fraction: share of the training images to hold out, between 0 and 1.
        seed: seed of the selection.

    Raises:
        DatasetError: one of the splits would be empty, or a validation split was held out before.
    """
    train = dataset.train
    if train.indices is not None:
        raise DatasetError("a validation split was held out of the training images before")
    labels = train.labels.numpy()
    held_out = held_out_indices(labels, fraction, seed)
    if not 0 < len(held_out) < len(labels):
        raise DatasetError(f"val_fraction {fraction} of {len(labels)} training images leaves a split empty")
    remaining = np.setdiff1d(np.arange(len(labels)), held_out)

    def subset(rows: NDArray[np.int64]) -> Split:
        indices = torch.from_numpy(rows)
        return replace(train, labels=train.labels[indices], indices=indices)

    return replace(dataset, train=subset(remaining), val=subset(held_out))


def held_out_indices(labels: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.int64]:
    """Return the samples to hold out, in increasing order.

    The total is ``round(fraction · N)``, distributed over the classes by largest remainder. Within a class the samples
    with the smallest hashes are chosen. Each class keeps at least one training image.

    Args:
        labels: (N,) labels of the training images.
        fraction: share to hold out, between 0 and 1.
        seed: seed of the hashes.
    """
    names, counts = np.unique(labels, return_counts=True)
    quotas = fraction * counts
    takes = np.floor(quotas).astype(np.int64)
    missing = round(fraction * len(labels)) - int(takes.sum())
    remainder = np.where(counts > 1, quotas - takes, -1.0)
    takes[np.argsort(-remainder, kind="stable")[:missing]] += 1
    takes = np.minimum(takes, counts - 1)
    rank = hashed_bits(len(labels), seed, 0, "validation")
    chosen = []
    for name, take in zip(names, takes, strict=True):
        members = np.flatnonzero(labels == name)
        chosen.append(members[np.argsort(rank[members], kind="stable")[:take]])
    return np.sort(np.concatenate(chosen)).astype(np.int64)
