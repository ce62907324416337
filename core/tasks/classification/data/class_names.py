"""Class names, which weight files store so that weights of other classes are recognised."""

from __future__ import annotations

from core.catalog.datasets import SyntheticParams
from core.specs import DatasetRef
from core.tasks.classification.data.cifar import CIFAR10_CLASSES, CIFAR100_CLASSES
from core.tasks.classification.data.dataset import Dataset

_DIGITS = tuple("0123456789")
_OFFICIAL = {
    "digits": _DIGITS,
    "mnist": _DIGITS,
    "svhn": _DIGITS,
    "fashion_mnist": (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
    "cifar10": CIFAR10_CLASSES,
    "cifar100": CIFAR100_CLASSES,
}  # fmt: skip


def class_names(choice: DatasetRef, dataset: Dataset) -> tuple[str, ...]:
    """Return the class names in the order of their labels; empty if unknown, as for a data set of a plug-in."""
    if dataset.classes:
        return dataset.classes
    params = choice.parsed_params
    if choice.name == "synthetic" and isinstance(params, SyntheticParams):
        # The prototypes depend on the number of classes, the image size and the number of channels.
        problem = f"{params.num_classes}x{params.channels}x{params.image_size}"
        return tuple(f"prototype {number} of {problem}" for number in range(params.num_classes))
    names = _OFFICIAL.get(choice.name, ())
    return names if len(names) == dataset.num_classes else ()
