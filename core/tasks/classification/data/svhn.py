"""Street View House Numbers, cropped digits (Netzer et al. 2011), from its MATLAB files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from core.catalog.datasets import SplitParams
from core.settings import TrainingSettings
from core.tasks.classification.data.augmentations.views import Augmentation
from core.tasks.classification.data.dataset import Dataset, Split
from core.tasks.classification.data.errors import DatasetError
from core.tasks.classification.data.layouts import candidate_folders, find_file, not_found_error
from core.tasks.classification.data.paths import fetch
from core.undecodable import visible

# Commonly used mean and standard deviation of the training images, scaled to 0–1.
_MEAN = (0.4377, 0.4438, 0.4728)
_STD = (0.1980, 0.2010, 0.1970)
_FILES = ("train_32x32.mat", "test_32x32.mat")
_NAMES = ("svhn", "SVHN", "")


def load(params: SplitParams, settings: TrainingSettings) -> Dataset:
    """Read the 73,257 training and 26,032 test images; the 531,131 easier extra images are not used."""
    files = _find(settings.data_dir)
    if files is None and settings.download:
        fetch("svhn", _download, settings)
        files = _find(settings.data_dir)
    if files is None:
        layout = f"svhn/{_FILES[0]} and svhn/{_FILES[1]} (its format 2, cropped digits; format 1 is not read)"
        source = "http://ufldl.stanford.edu/housenumbers"
        raise not_found_error("svhn", _NAMES[:2], [layout], source, settings, downloadable=True)
    train, test = map(_split, files)
    # Shifts only, because a mirrored digit is a different symbol.
    return Dataset(train, test, 10, _MEAN, _STD, Augmentation(pad=4))


def _find(data_dir: Path) -> list[Path] | None:
    for root in candidate_folders(_NAMES, data_dir):
        paths = [path for name in _FILES if (path := find_file(root, [name], deep=root != data_dir))]
        if len(paths) == len(_FILES):
            return paths
    return None


def _download(root: str) -> None:
    from torchvision.datasets import SVHN

    for split in ("train", "test"):
        SVHN(f"{root}/svhn", split=split, download=True)


def _split(path: Path) -> Split:
    from scipy.io import loadmat

    try:
        content = loadmat(path)
        images, labels = content["X"], content["y"].ravel().astype(np.int64)
        if images.dtype != np.uint8 or images.shape[:3] != (32, 32, 3) or images.shape[3] != len(labels):
            raise ValueError(f"images {images.shape} and labels {labels.shape}")
    except Exception as error:
        raise DatasetError(f"{visible(str(path))} cannot be read: {type(error).__name__}: {error}") from error
    # The files give the digit 0 the class 10.
    return Split(torch.from_numpy(np.ascontiguousarray(images.transpose(3, 2, 0, 1))), torch.from_numpy(labels % 10))
