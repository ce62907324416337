"""A validation split, held out of the training images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from core.data.dataset import Dataset, Split
from core.data.errors import DatasetError
from core.data.hashing import hashed_bits


def hold_out(dataset: Dataset, fraction: float, seed: int) -> Dataset:
    """The data set with ``round(fraction · N)`` of its training images as ``val``, each class in its share.

    Which images those are depends on the labels, the fraction and the seed alone, so every run of an experiment holds
    out the same ones. Mean and standard deviation stay those of all training images, as the published constants do.

    Raises DatasetError where fraction and N leave one of the splits empty.
    """
    train = dataset.train
    if train.indices is not None:
        raise DatasetError("the training images are held out of already")
    labels = train.labels.numpy()
    held = held_out_indices(labels, fraction, seed)
    if not 0 < len(held) < len(labels):
        raise DatasetError(f"val_fraction {fraction} of {len(labels)} training images leaves a split empty")
    kept = np.setdiff1d(np.arange(len(labels)), held)

    def part(rows: NDArray[np.int64]) -> Split:
        there = torch.from_numpy(rows)
        return replace(train, labels=train.labels[there], indices=there)

    return replace(dataset, train=part(kept), val=part(held))


def held_out_indices(labels: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.int64]:
    """Which samples to hold out, in increasing order.

    The total is ``round(fraction · N)``, known before anything is read; classes share it by largest remainder. Within a
    class those of the smallest hash are taken. A class always keeps one image to train on.
    """
    names, counts = np.unique(labels, return_counts=True)
    quotas = fraction * counts
    takes = np.floor(quotas).astype(np.int64)
    short = round(fraction * len(labels)) - int(takes.sum())
    remainder = np.where(counts > 1, quotas - takes, -1.0)
    takes[np.argsort(-remainder, kind="stable")[:short]] += 1
    takes = np.minimum(takes, counts - 1)
    rank = hashed_bits(len(labels), seed, 0, "validation")
    chosen = []
    for name, take in zip(names, takes, strict=True):
        of_class = np.flatnonzero(labels == name)
        chosen.append(of_class[np.argsort(rank[of_class], kind="stable")[:take]])
    return np.sort(np.concatenate(chosen)).astype(np.int64)
