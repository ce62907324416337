"""Any images sorted into a folder a class."""

from __future__ import annotations

from dataclasses import replace

from core.catalog.datasets import FolderParams
from core.data.dataset import Dataset
from core.data.errors import DatasetError
from core.data.image_files import list_tree
from core.data.images import dataset_from_listing, photo_augmentation
from core.data.layouts import describe_folder, find_folder, find_tree, unwrap_single_folder
from core.data.paths import PathRefusedError, contained
from core.settings import TrainingSettings
from core.undecodable import visible


def load(params: FolderParams, settings: TrainingSettings) -> Dataset:
    """``PATH/train/<class>/`` and ``PATH/test/<class>/`` below ``DATA_DIR``, or other names of splits in use.

    Classes are numbered as their names are sorted. Mean and standard deviation are the packed images' own.
    """
    folder = find_folder(params.path, settings.data_dir)
    tree = find_tree(unwrap_single_folder(folder)) if folder else None
    if tree:
        try:
            for part in (tree.root, tree.root / tree.train, tree.root / tree.test):
                contained(part, "folder", settings)
        except PathRefusedError as error:
            raise DatasetError(str(error)) from None
    if tree is None:
        root = visible(str(settings.data_dir / params.path))
        found = f" It holds {describe_folder(folder)}." if folder else ""
        raise DatasetError(
            f"there is no image folder {root}: it needs {root}/train/<class>/*.png and {root}/test/<class>/*.png, "
            "or JPEG and the like (training; testing, val, valid, validation are read too); DATA_DIR names the folder "
            f"from which the path counts.{found} If it has "
            "class folders and no splits, move a part of each class into train/<class>/ and the rest into test/<class>/"
        )
    listing = list_tree(tree)
    if len(listing.classes) < 2:
        raise DatasetError(f"{visible(str(tree.root))} has one class, {listing.classes[0]}; a classifier needs two")
    augmentation = replace(photo_augmentation(params), flip=params.flip)
    name = params.path.rpartition("/")[2][:60]
    return dataset_from_listing(f"folder-{name}", listing, params.image_size, augmentation, settings=settings)
