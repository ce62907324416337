"""MNIST (LeCun et al., 1998) and Fashion-MNIST (Xiao et al., 2017, arXiv 1708.07747), from their IDX files."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from core.catalog.datasets import SplitParams
from core.data.dataset import Augmentation, Dataset, Split
from core.data.errors import DatasetError
from core.data.layouts import candidate_folders, find_file, not_found_error, simple_name
from core.data.paths import fetch
from core.settings import TrainingSettings
from core.undecodable import visible

_RELATIVES = ("mnist", "fashion_mnist", "kmnist", "emnist", "qmnist")
"""Their files have the same names; torchvision puts each into a folder of its own in one place."""

_UNSIGNED_BYTE = 8  # IDX's code of the element type


def load_mnist(params: SplitParams, settings: TrainingSettings) -> Dataset:
    """Handwritten digits. Mean and standard deviation as in PyTorch's MNIST example; computed, they are the same."""
    # A mirrored digit is another sign, so shifts only.
    return _load("mnist", "MNIST", (0.1307,), (0.3081,), Augmentation(pad=2), settings)


def load_fashion_mnist(params: SplitParams, settings: TrainingSettings) -> Dataset:
    """Clothes. Mean and standard deviation of its training images, as commonly used."""
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
        layout = f"{name}/ with the four files train-images-idx3-ubyte … t10k-labels-idx1-ubyte, as they are or as .gz"
        source = "http://yann.lecun.com/exdb/mnist" if name == "mnist" else "github.com/zalandoresearch/fashion-mnist"
        layouts = [layout, f"torchvision's {torchvision_name}/raw/"]
        raise not_found_error(name, names, layouts, source, settings, downloadable=True)
    return Dataset(_split(files[:2]), _split(files[2:]), 10, mean, std, augmentation)


def _find(names: tuple[str, ...], data_dir: Path) -> list[Path] | None:
    """Training images, training labels, test images, test labels, from the first folder that holds all four.

    They may lie in folders below it: ``raw``, which torchvision makes, or one of each file's own name, as some
    archives unpack.
    """
    parts = ("images-idx3", "labels-idx1")
    others = set(map(simple_name, _RELATIVES)) - set(map(simple_name, names))
    for root in candidate_folders(names, data_dir):
        if others & set(map(simple_name, root.relative_to(data_dir).parts)):
            continue
        found = [path for split in ("train", "t10k") for part in parts if (path := _file(root, split, part))]
        if len(found) == 4:
            return found
    return None


def _file(folder: Path, split: str, part: str) -> Path | None:
    """The file under one of the names it is distributed by."""
    names = [f"{split}-{part}-ubyte", f"{split}-{part.replace('-', '.')}-ubyte"]
    all_names = [name for plain in names for name in (plain, f"{plain}.gz")]
    return find_file(folder, all_names, apart_from=_RELATIVES)


def _split(files: list[Path]) -> Split:
    images, labels = (_read(path) for path in files)
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise DatasetError(
            f"{visible(str(files[0]))} has images {images.shape} and labels {labels.shape}, which do not match"
        )
    return Split(torch.from_numpy(images[:, None]), torch.from_numpy(labels.astype(np.int64)))


def _read(path: Path) -> NDArray[np.uint8]:
    """An IDX file: two zeros, element type, number of dimensions, each dimension (32 bits, big endian), the elements.

    Raises DatasetError where it is none or is cut off.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        zeros, kind, dimensions = content[:2], content[2], content[3]
        shape = np.frombuffer(content, ">u4", dimensions, offset=4).astype(np.int64)
        if zeros != b"\0\0" or kind != _UNSIGNED_BYTE:
            raise ValueError("not an IDX file of bytes")
        elements = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
        return elements.reshape(shape).copy()  # of its own: a tensor cannot be on read-only memory
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise DatasetError(f"{visible(str(path))} cannot be read: {error}") from error
