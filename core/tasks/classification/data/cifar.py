"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): the official pickles or binary files, or a tree of image files."""

from __future__ import annotations

import operator
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from core.catalog.datasets import CIFARParams
from core.settings import TrainingSettings
from core.tasks.classification.data.augmentations.views import Augmentation
from core.tasks.classification.data.dataset import Dataset, Split
from core.tasks.classification.data.errors import DatasetError
from core.tasks.classification.data.image_files import list_tree
from core.tasks.classification.data.images import dataset_from_listing
from core.tasks.classification.data.layouts import candidate_folders, find_tree, not_found_error
from core.tasks.classification.data.paths import fetch
from core.tasks.classification.data.statistics import Statistics
from core.undecodable import visible

_AUGMENTATION = Augmentation(pad=4, flip=True)

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""Class names in the order of their official numbers (``batches.meta``)."""

# fmt: off
CIFAR100_CLASSES = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest",
    "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion", "lizard",
    "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange", "orchid",
    "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine", "possum",
    "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper",
    "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone",
    "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf",
    "woman", "worm",
)
"""Class names in the order of their official fine labels (``meta``), which is alphabetical."""
# fmt: on


@dataclass(frozen=True)
class _Cifar:
    """The properties in which CIFAR-10 and CIFAR-100 differ.

    Attributes:
        pickles: folder of the official Python archive.
        train: file names of the training images in it.
        test: file name of the test images in it.
        label_key: key of the labels in a file.
        binary: folder of the official binary archive, whose files have the same names with ``.bin``.
        label_bytes: number of label bytes in front of each binary image; the last one is the label.
        trees: names that a folder of image files may have under ``DATA_DIR``.
    """

    name: str
    torchvision_name: str
    classes: tuple[str, ...]
    statistics: Statistics
    pickles: str
    train: tuple[str, ...]
    test: str
    label_key: str
    binary: str
    label_bytes: int
    trees: tuple[str, ...]


# Mean and standard deviation of the training images, scaled to 0–1. The standard deviation is that of all pixels; the
# smaller values that are often copied (0.2023 …) are a mean over the standard deviations of single images.
_CIFAR10 = _Cifar(
    name="cifar10",
    torchvision_name="CIFAR10",
    classes=CIFAR10_CLASSES,
    statistics=Statistics((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    pickles="cifar-10-batches-py",
    train=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test="test_batch",
    label_key="labels",
    binary="cifar-10-batches-bin",
    label_bytes=1,
    trees=("cifar10", "cifar-10", "CIFAR10", "CIFAR-10", "CIFAR-10-images"),
)
# The values of mdistiller, so that its recipe is reproduced exactly.
_CIFAR100 = _Cifar(
    name="cifar100",
    torchvision_name="CIFAR100",
    classes=CIFAR100_CLASSES,
    statistics=Statistics((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    pickles="cifar-100-python",
    train=("train",),
    test="test",
    label_key="fine_labels",
    binary="cifar-100-binary",
    label_bytes=2,
    trees=("cifar100", "cifar-100", "CIFAR100", "CIFAR-100", "CIFAR-100-dataset"),
)


def load_cifar10(params: CIFARParams, settings: TrainingSettings) -> Dataset:
    """Read CIFAR-10. Labels have the official order, airplane 0 … truck 9, in every supported format."""
    return _with_image_size(_load(_CIFAR10, settings), params)


def load_cifar100(params: CIFARParams, settings: TrainingSettings) -> Dataset:
    """Read CIFAR-100. Fine labels have the official, alphabetical order in every supported format."""
    return _with_image_size(_load(_CIFAR100, settings), params)


def _with_image_size(dataset: Dataset, params: CIFARParams) -> Dataset:
    return replace(dataset, upscaled_size=params.image_size) if params.image_size != 32 else dataset


def _load(kind: _Cifar, settings: TrainingSettings) -> Dataset:
    dataset = _find(kind, settings)
    if dataset is None and settings.download:
        from torchvision import datasets

        downloader = getattr(datasets, kind.torchvision_name)
        fetch(kind.name, lambda root: downloader(root, download=True), settings)
        dataset = _find(kind, settings)
    if dataset is None:
        layouts = [
            f"{kind.pickles}/ with {kind.train[0]} … {kind.test}, as the official archive unpacks, or {kind.binary}/",
            f"{kind.name}/train/<class>/*.png and {kind.name}/test/<class>/*.png (or JPEG), "
            f"with classes named {kind.classes[0]} … {kind.classes[-1]}",
        ]
        source = "https://www.cs.toronto.edu/~kriz/cifar.html"
        raise not_found_error(kind.name, _folder_names(kind), layouts, source, settings, downloadable=True)
    return dataset


def _folder_names(kind: _Cifar) -> list[str]:
    # "cifar100" itself is included, because some people unpack the archive's files directly into it.
    names = [kind.pickles, f"{kind.name}/{kind.pickles}", kind.name, kind.binary, f"{kind.name}/{kind.binary}"]
    return [*names, *(name for name in kind.trees if name != kind.name)]


def _find(kind: _Cifar, settings: TrainingSettings) -> Dataset | None:
    folders = list(candidate_folders(_folder_names(kind), settings.data_dir))
    mean, std = kind.statistics.mean, kind.statistics.std
    for suffix, read in (("", _pickle_split), (".bin", _binary_split)):
        names = [f"{name}{suffix}" for name in (*kind.train, kind.test)]
        folder = next((root for root in folders if all((root / name).is_file() for name in names)), None)
        if folder:
            train, test = read(folder, names[:-1], kind), read(folder, names[-1:], kind)
            return Dataset(train, test, len(kind.classes), mean, std, _AUGMENTATION)
    tree = find_tree(folders)
    if tree:
        listing = list_tree(tree, kind.classes)
        return dataset_from_listing(kind.name, listing, 32, _AUGMENTATION, kind.statistics, settings=settings)
    return None


def _binary_split(folder: Path, names: Sequence[str], kind: _Cifar) -> Split:
    """Read records of label bytes and 3072 bytes of pixels, channel by channel.

    Raises:
        DatasetError: a file is truncated or has labels of no class.
    """
    size = kind.label_bytes + 3 * 32 * 32
    parts = []
    for name in names:
        content = np.frombuffer((folder / name).read_bytes(), dtype=np.uint8)
        if not len(content) or len(content) % size:
            raise DatasetError(f"{visible(str(folder / name))} is truncated: each of its images takes {size} bytes")
        parts.append(content.reshape(-1, size))
    records = np.concatenate(parts)
    labels = records[:, kind.label_bytes - 1].astype(np.int64)
    if labels.max() >= len(kind.classes):
        raise DatasetError(
            f"{visible(str(folder))}: {', '.join(names)} have labels that are not classes of {kind.name}"
        )
    images = np.ascontiguousarray(records[:, kind.label_bytes :]).reshape(-1, 3, 32, 32)
    return Split(torch.from_numpy(images), torch.from_numpy(labels))


def _pickle_split(folder: Path, names: Sequence[str], kind: _Cifar) -> Split:
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    for name in names:
        content = _read_pickle(folder / name)
        try:
            images.append(content["data"].reshape(-1, 3, 32, 32))
            labels.extend(operator.index(label) for label in content[kind.label_key])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DatasetError(f"{folder / name} is not a file of {kind.name}: {error!r}") from error
    if sum(map(len, images)) != len(labels) or not labels or not 0 <= min(labels) <= max(labels) < len(kind.classes):
        raise DatasetError(f"{folder}: images and labels of {', '.join(names)} do not match")
    return Split(torch.from_numpy(np.concatenate(images)), torch.tensor(labels))


def _read_pickle(path: Path) -> Any:
    """Return the content of a pickle of plain values and arrays.

    Raises:
        DatasetError: the file is damaged or contains other objects.
    """
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file, encoding="latin1").load()
    except Exception as error:
        raise DatasetError(f"{path} cannot be read: {type(error).__name__}: {error}") from error


class _PlainUnpickler(pickle.Unpickler):
    """Loads only arrays and plain values: other pickles can run code, and these files come from the network."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        if (module, name) in {("numpy", "ndarray"), ("numpy", "dtype")}:
            return getattr(np, name)
        # NumPy 2.0 renamed the module; the official files have the older name.
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return super().find_class("numpy._core.multiarray", name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR file needs")
