"""Any images sorted into a folder a class."""

from __future__ import annotations

from dataclasses import replace

from core.catalog.datasets import FolderParams
from core.data.dataset import Dataset
from core.data.errors import DatasetError
from core.data.image_files import find_tree, list_tree
from core.data.images import from_listing, photo_augmentation
from core.data.places import data_dir


def load(params: FolderParams) -> Dataset:
    """``PATH/train/<class>/`` and ``PATH/test/<class>/`` (or ``val`` where there is no ``test``) below ``DATA_DIR``.

    Classes are numbered as their names are sorted. Mean and standard deviation are the packed images' own.
    """
    tree = find_tree((params.path,), ("test", "val"))
    if tree is None:
        root = data_dir() / params.path
        raise DatasetError(
            f"there is no image folder {root}: it needs {root}/train/<class>/*.png and {root}/test/<class>/*.png, "
            "or JPEG and the like; DATA_DIR names the folder from which the path counts"
        )
    listing = list_tree(*tree)
    if len(listing.classes) < 2:
        raise DatasetError(f"{tree[0]} has one class, {listing.classes[0]}; a classifier needs two")
    augmentation = replace(photo_augmentation(params), flip=params.flip)
    name = params.path.rpartition("/")[2][:60]
    return from_listing(f"folder-{name}", listing, params.image_size, augmentation)
