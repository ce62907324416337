"""Images sorted into one folder per class."""

from __future__ import annotations

from dataclasses import replace

from core.catalog.datasets import FolderParams
from core.settings import TrainingSettings
from core.tasks.classification.data.dataset import Dataset
from core.tasks.classification.data.errors import DatasetError
from core.tasks.classification.data.image_files import list_tree
from core.tasks.classification.data.images import dataset_from_listing, photo_augmentation
from core.tasks.classification.data.layouts import describe_folder, find_folder, find_tree, unwrap_single_folder
from core.tasks.classification.data.paths import PathRefusedError, contained
from core.undecodable import visible


def load(params: FolderParams, settings: TrainingSettings) -> Dataset:
    """Read ``PATH/train/<class>/`` and ``PATH/test/<class>/`` below ``DATA_DIR``; other usual split names work too.

    Class numbers follow the sorted names. Mean and standard deviation are computed from the packed images.

    Raises:
        DatasetError: the folder or its splits are missing, or it has fewer than two classes.
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
        content = f" It contains {describe_folder(folder)}." if folder else ""
        raise DatasetError(
            f"there is no image folder {root}: it needs {root}/train/<class>/*.png and {root}/test/<class>/*.png, "
            "or another image format (split folders may be named training, testing, val, valid or validation too). The "
            f"path is relative to DATA_DIR.{content} If it has "
            "class folders and no splits, move a part of each class to train/<class>/ and the rest to test/<class>/"
        )
    listing = list_tree(tree)
    if len(listing.classes) < 2:
        raise DatasetError(
            f"{visible(str(tree.root))} has one class, {listing.classes[0]}; a classifier needs at least two"
        )
    augmentation = replace(photo_augmentation(params), flip=params.flip)
    name = params.path.rpartition("/")[2][:60]
    return dataset_from_listing(f"folder-{name}", listing, params.image_size, augmentation, settings=settings)
