"""Food-101 (Bossard et al., ECCV 2014): 101 dishes with 750 training and 250 test photographs each."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from core.catalog.datasets import CroppedParams
from core.settings import TrainingSettings
from core.tasks.classification.data.dataset import Dataset
from core.tasks.classification.data.errors import DatasetError
from core.tasks.classification.data.image_files import ImageFile, Listing, list_tree
from core.tasks.classification.data.images import dataset_from_listing, photo_augmentation
from core.tasks.classification.data.layouts import candidate_folders, find_tree, not_found_error
from core.tasks.classification.data.paths import fetch
from core.tasks.classification.data.text_tables import read_lines
from core.undecodable import visible

_FOLDERS = ("food-101", "food101", "food101/food-101")
_REQUIRED_FILES = ("images", "meta/train.txt", "meta/test.txt")


def load(params: CroppedParams, settings: TrainingSettings) -> Dataset:
    """Read Food-101 with the official split and alphabetical class numbers.

    Mean and standard deviation are computed from the packed images.
    """
    folders = list(candidate_folders(_FOLDERS, settings.data_dir))
    folder, tree = _find(folders), find_tree(folders)
    if folder is None and tree is None and settings.download:
        fetch("food101", _download, settings)
        folder = _find(candidate_folders(_FOLDERS, settings.data_dir))
    if folder:
        listing = _listing(folder)
    elif tree:
        listing = list_tree(tree)
    else:
        layouts = [
            "food-101/ with images/<class>/*.jpg and meta/train.txt, meta/test.txt, as the official archive unpacks",
            "food101/train/<class>/*.jpg and food101/test/<class>/*.jpg",
        ]
        source = "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101"
        raise not_found_error("food101", _FOLDERS, layouts, source, settings, downloadable=True)
    return dataset_from_listing("food101", listing, params.image_size, photo_augmentation(params), settings=settings)


def _find(folders: Iterable[Path]) -> Path | None:
    return next((root for root in folders if _is_archive(root)), None)


def _is_archive(root: Path) -> bool:
    return (root / _REQUIRED_FILES[0]).is_dir() and all((root / name).is_file() for name in _REQUIRED_FILES[1:])


def _download(root: str) -> None:
    from torchvision.datasets import Food101

    Food101(root, download=True)


def _listing(folder: Path) -> Listing:
    """List the images of the official lists, whose lines are ``class/number``."""
    names = {split: "\n".join(read_lines(folder / "meta" / f"{split}.txt")).split() for split in ("train", "test")}
    classes = sorted({line.partition("/")[0] for line in names["train"]})
    number = {name: label for label, name in enumerate(classes)}

    def files(split: str) -> tuple[ImageFile, ...]:
        try:
            return tuple(ImageFile(f"images/{line}.jpg", number[line.partition("/")[0]]) for line in names[split])
        except KeyError as error:
            raise DatasetError(
                f"{visible(str(folder))}/meta/{split}.txt names the class {error}, which has no training image"
            ) from None

    return Listing(folder, tuple(classes), files("train"), files("test"))
