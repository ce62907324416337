"""scikit-learn's bundled digits: 1,797 real 8×8 grey images (UCI Optical Recognition of Handwritten Digits)."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from core.catalog.datasets import SplitParams
from core.tasks.classification.data.augmentations.views import Augmentation
from core.tasks.classification.data.dataset import Dataset, Split
from core.tasks.classification.data.statistics import channel_statistics

TEST_SIZE = 901  # half; the remaining 896 training images are 14 full batches of 64


def load(params: SplitParams) -> Dataset:
    """Read the images with a fixed split, stratified by class. Grey levels 0–16 become 0–255."""
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[:, None]
    train_x, test_x, train_y, test_y = train_test_split(
        images, digits.target, test_size=TEST_SIZE, stratify=digits.target, random_state=0
    )
    train = Split(torch.from_numpy(train_x), torch.from_numpy(train_y.astype(np.int64)))
    test = Split(torch.from_numpy(test_x), torch.from_numpy(test_y.astype(np.int64)))
    mean, std = channel_statistics(train.images)
    # Shifts only, because a mirrored digit is a different symbol.
    return Dataset(train, test, 10, mean, std, Augmentation(pad=1))
