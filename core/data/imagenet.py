"""ImageNet-1k (Russakovsky et al., 2015; ILSVRC 2012)."""

from __future__ import annotations

from pathlib import Path

from core.catalog.datasets import CroppedParams
from core.data.dataset import Dataset
from core.data.errors import DatasetError
from core.data.image_files import Listing, Tree, class_names, list_tree
from core.data.imagenet_labels import NAMES, labels_beside
from core.data.images import dataset_from_listing, photo_augmentation
from core.data.layouts import VAL, candidate_folders, describe_folder, find_tree, not_found_error, split_folders
from core.data.scanning import subfolders
from core.data.statistics import Statistics
from core.settings import TrainingSettings
from core.undecodable import visible

_FOLDERS = (
    *("imagenet", "ImageNet", "ILSVRC2012", "imagenet/ILSVRC/Data/CLS-LOC", "imagenet-1k", "ILSVRC"),
    "imagenet-object-localization-challenge",
)
_BELOW = ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC", "ILSVRC2012")
# torchvision's reference values, which its pretrained networks expect.
_STATISTICS = Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def load(params: CroppedParams, settings: TrainingSettings) -> Dataset:
    """The validation images are the test split, as everywhere. Classes are numbered as their WordNet ids are sorted,
    which is torchvision's and timm's order too."""
    roots = candidate_folders(_FOLDERS, settings.data_dir)
    folders = [root / below for root in roots for below in _BELOW if (root / below).is_dir()]
    tree = find_tree(folders, VAL)
    listing = list_tree(tree, _numbered(tree)) if tree else _with_table(folders, settings.data_dir)
    if listing is None:
        layouts = [
            "imagenet/train/<id>/*.JPEG and imagenet/val/<id>/*.JPEG, 1000 WordNet ids",
            "imagenet/ILSVRC/Data/CLS-LOC/train, …/val and imagenet/LOC_val_solution.csv, as Kaggle's archive unpacks",
            f"imagenet/train/<id>/*.JPEG and imagenet/val/*.JPEG with one of {', '.join(NAMES)} in imagenet/",
        ]
        source = "https://www.image-net.org/download.php, which asks for a registration"
        raise not_found_error("imagenet", _FOLDERS, layouts, source, settings)
    augmentation = photo_augmentation(params)
    return dataset_from_listing("imagenet", listing, params.image_size, augmentation, _STATISTICS, settings=settings)


def _numbered(tree: Tree) -> list[str] | None:
    """Class folders that are named by the classes' numbers, in the numbers' order and not the alphabet's."""
    names = subfolders(tree.root / tree.train)
    return sorted(names, key=int) if all(name.isascii() and name.isdigit() for name in names) else None


def _with_table(folders: list[Path], data_dir: Path) -> Listing | None:
    """Kaggle's form and the official archives': the validation images in one folder, their classes in a table."""
    for root in folders:
        train, tests = split_folders(root, VAL)
        if train is None or not tests:
            continue
        labels = labels_beside(root, tests[0], class_names(root / train, None), data_dir)
        if labels is None:
            split = root / tests[0]
            raise DatasetError(
                f"{visible(str(split))} has no class folders (it holds {describe_folder(split)}), and no table of its "
                f"classes lies in {visible(str(root))} or above it: put one of {', '.join(NAMES)} there, or sort the "
                "images into val/<id>/"
            )
        return list_tree(Tree(root, train, tests[0]), of_test=labels)
    return None
