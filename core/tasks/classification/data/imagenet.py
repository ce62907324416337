"""ImageNet-1k (Russakovsky et al. 2015; ILSVRC 2012)."""

from __future__ import annotations

from pathlib import Path

from core.catalog.datasets import CroppedParams
from core.settings import TrainingSettings
from core.tasks.classification.data.dataset import Dataset
from core.tasks.classification.data.errors import DatasetError
from core.tasks.classification.data.image_files import Listing, Tree, class_names, list_tree
from core.tasks.classification.data.imagenet_labels import NAMES, labels_beside
from core.tasks.classification.data.images import dataset_from_listing, photo_augmentation
from core.tasks.classification.data.layouts import (
    VAL,
    candidate_folders,
    describe_folder,
    find_tree,
    not_found_error,
    split_folders,
)
from core.tasks.classification.data.scanning import subfolders
from core.tasks.classification.data.statistics import Statistics
from core.undecodable import visible

_FOLDERS = (
    *("imagenet", "ImageNet", "ILSVRC2012", "imagenet/ILSVRC/Data/CLS-LOC", "imagenet-1k", "ILSVRC"),
    "imagenet-object-localization-challenge",
)
_SUBFOLDERS = ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC", "ILSVRC2012")
# The reference values of torchvision, which its pretrained networks expect.
_STATISTICS = Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def load(params: CroppedParams, settings: TrainingSettings) -> Dataset:
    """Read ImageNet; the validation images are the test split, as usual.

    Class numbers follow the sorted WordNet ids, as in torchvision and timm.

    Raises:
        DatasetError: the images or the classes of the validation images are missing.
    """
    roots = candidate_folders(_FOLDERS, settings.data_dir)
    folders = [root / name for root in roots for name in _SUBFOLDERS if (root / name).is_dir()]
    tree = find_tree(folders, VAL)
    listing = list_tree(tree, _numeric_classes(tree)) if tree else _with_table(folders, settings.data_dir)
    if listing is None:
        layouts = [
            "imagenet/train/<id>/*.JPEG and imagenet/val/<id>/*.JPEG with 1000 WordNet ids",
            "imagenet/ILSVRC/Data/CLS-LOC/train, …/val and imagenet/LOC_val_solution.csv, as Kaggle's archive unpacks",
            f"imagenet/train/<id>/*.JPEG and imagenet/val/*.JPEG with one of {', '.join(NAMES)} in imagenet/",
        ]
        source = "https://www.image-net.org/download.php, which requires a registration"
        raise not_found_error("imagenet", _FOLDERS, layouts, source, settings)
    augmentation = photo_augmentation(params)
    return dataset_from_listing("imagenet", listing, params.image_size, augmentation, _STATISTICS, settings=settings)


def _numeric_classes(tree: Tree) -> list[str] | None:
    """Return class folders that are named by class numbers, in numeric order; None if the names are not numbers."""
    names = subfolders(tree.root / tree.train)
    return sorted(names, key=int) if all(name.isascii() and name.isdigit() for name in names) else None


def _with_table(folders: list[Path], data_dir: Path) -> Listing | None:
    """List the layout of Kaggle and of the official archives: validation images in one folder, classes in a table."""
    for root in folders:
        train, tests = split_folders(root, VAL)
        if train is None or not tests:
            continue
        labels = labels_beside(root, tests[0], class_names(root / train, None), data_dir)
        if labels is None:
            split = root / tests[0]
            raise DatasetError(
                f"{visible(str(split))} has no class folders (it contains {describe_folder(split)}), and there is no "
                f"table of its classes in {visible(str(root))} or above it: put one of {', '.join(NAMES)} there, or "
                "sort the images into val/<id>/"
            )
        return list_tree(Tree(root, train, tests[0]), test_classes=labels)
    return None
