"""MNIST (LeCun et al. 1998) and Fashion-MNIST (Xiao et al. 2017, arXiv 1708.07747), from their IDX files."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from core.catalog.datasets import SplitParams
from core.settings import TrainingSettings
from core.tasks.classification.data.augmentations.views import Augmentation
from core.tasks.classification.data.dataset import Dataset, Split
from core.tasks.classification.data.errors import DatasetError
from core.tasks.classification.data.layouts import candidate_folders, find_file, normalise_name, not_found_error
from core.tasks.classification.data.paths import fetch
from core.undecodable import visible

_SAME_FILE_NAMES = ("mnist", "fashion_mnist", "kmnist", "emnist", "qmnist")
"""Data sets whose files have the same names. torchvision puts each into its own folder below one root."""

_UNSIGNED_BYTE = 8  # code of the element type in IDX files


def load_mnist(params: SplitParams, settings: TrainingSettings) -> Dataset:
    """Read MNIST. Mean and standard deviation are those of PyTorch's MNIST example and of the training images."""
    # Shifts only, because a mirrored digit is a different symbol.
    return _load("mnist", "MNIST", (0.1307,), (0.3081,), Augmentation(pad=2), settings)


def load_fashion_mnist(params: SplitParams, settings: TrainingSettings) -> Dataset:
    """Read Fashion-MNIST with the commonly used mean and standard deviation of its training images."""
    return _load("fashion_mnist", "FashionMNIST", (0.2860,), (0.3530,), Augmentation(pad=2, flip=True), settings)


def _load(
    name: str,
    torchvision_name: str,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    augmentation: Augmentation,
    settings: TrainingSettings,
) -> Dataset:
    names = (name, torchvision_name)
    files = _find(names, settings.data_dir)
    if files is None and settings.download:
        from torchvision import datasets

        downloader = getattr(datasets, torchvision_name)
        fetch(name, lambda root: downloader(root, download=True), settings)
        files = _find(names, settings.data_dir)
    if files is None:
        layout = f"{name}/ with the four files train-images-idx3-ubyte … t10k-labels-idx1-ubyte, unpacked or as .gz"
        source = "http://yann.lecun.com/exdb/mnist" if name == "mnist" else "github.com/zalandoresearch/fashion-mnist"
        layouts = [layout, f"torchvision's {torchvision_name}/raw/"]
        raise not_found_error(name, names, layouts, source, settings, downloadable=True)
    return Dataset(_split(files[:2]), _split(files[2:]), 10, mean, std, augmentation)


def _find(names: tuple[str, ...], data_dir: Path) -> list[Path] | None:
    """Return training images, training labels, test images and test labels of the first folder that has all four.

    They may be in folders below it: in ``raw``, which torchvision creates, or in one named like each file, as some
    archives unpack.
    """
    parts = ("images-idx3", "labels-idx1")
    other_datasets = set(map(normalise_name, _SAME_FILE_NAMES)) - set(map(normalise_name, names))
    for root in candidate_folders(names, data_dir):
        if other_datasets & set(map(normalise_name, root.relative_to(data_dir).parts)):
            continue
        paths = [path for split in ("train", "t10k") for part in parts if (path := _file(root, split, part))]
        if len(paths) == 4:
            return paths
    return None


def _file(folder: Path, split: str, part: str) -> Path | None:
    """Return the file, under one of the names by which it is distributed."""
    names = [f"{split}-{part}-ubyte", f"{split}-{part.replace('-', '.')}-ubyte"]
    all_names = [name for plain in names for name in (plain, f"{plain}.gz")]
    return find_file(folder, all_names, excluded=_SAME_FILE_NAMES)


def _split(files: list[Path]) -> Split:
    images, labels = (_read_idx(path) for path in files)
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise DatasetError(
            f"{visible(str(files[0]))} has images {images.shape} and labels {labels.shape}, which do not match"
        )
    return Split(torch.from_numpy(images[:, None]), torch.from_numpy(labels.astype(np.int64)))


def _read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an IDX file.

    It has two zero bytes, the element type, the number of dimensions, the dimensions (32 bit, big endian) and the data.

    Raises:
        DatasetError: the file is not an IDX file of bytes, or it is truncated.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        zeros, kind, dimensions = content[:2], content[2], content[3]
        shape = np.frombuffer(content, ">u4", dimensions, offset=4).astype(np.int64)
        if zeros != b"\0\0" or kind != _UNSIGNED_BYTE:
            raise ValueError("not an IDX file of bytes")
        elements = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
        return elements.reshape(shape).copy()  # a tensor cannot use read-only memory
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise DatasetError(f"{visible(str(path))} cannot be read: {error}") from error
