"""A synthetic classification problem: one smooth random prototype per class, plus noise."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from core.catalog.datasets import SyntheticParams
from core.tasks.classification.data.augmentations.views import Augmentation
from core.tasks.classification.data.dataset import Dataset, Split
from core.tasks.classification.data.statistics import channel_statistics

_SEED = 20_220_316  # fixes the problem; the seeds of runs do not change it


def load(params: SyntheticParams) -> Dataset:
    """Generate the images: equal parameters give equal images, with balanced classes."""
    random = np.random.default_rng(_SEED)
    shape = (params.num_classes, params.channels, params.image_size, params.image_size)
    prototypes = _smooth(random.standard_normal(shape))

    def split(size: int) -> Split:
        labels = np.arange(size) % params.num_classes
        images = prototypes[labels] + params.noise * random.standard_normal((size, *shape[1:]))
        # ±4 standard deviations of prototype plus noise fill the range of a byte.
        scaled = 127.5 + images * (127.5 / (4 * np.sqrt(1 + params.noise**2)))
        pixels = np.clip(np.round(scaled), 0, 255).astype(np.uint8)
        return Split(torch.from_numpy(pixels), torch.from_numpy(labels.astype(np.int64)))

    train, test = split(params.train_size), split(params.test_size)
    mean, std = channel_statistics(train.images)
    return Dataset(train, test, params.num_classes, mean, std, Augmentation(pad=1, flip=False))


def _smooth(images: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average neighbouring pixels, so that convolutions can detect patterns, and scale each image to std 1."""
    around = sum(np.roll(images, (dy, dx), (-2, -1)) for dy in (-1, 0, 1) for dx in (-1, 0, 1))
    averaged = np.asarray(around)
    normed: NDArray[np.float64] = averaged / averaged.std(axis=(-3, -2, -1), keepdims=True)
    return normed
