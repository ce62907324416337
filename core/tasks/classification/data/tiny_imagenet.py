"""Tiny ImageNet (Stanford CS231n): 200 of ImageNet's classes at 64 px with 500 training images each."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from core.catalog.datasets import ImageParams
from core.settings import TrainingSettings
from core.tasks.classification.data.dataset import Dataset
from core.tasks.classification.data.image_files import Tree, list_tree
from core.tasks.classification.data.images import dataset_from_listing, photo_augmentation
from core.tasks.classification.data.layouts import VAL, candidate_folders, find_tree, not_found_error, split_folders
from core.tasks.classification.data.statistics import Statistics
from core.tasks.classification.data.text_tables import read_lines

_FOLDERS = ("tiny-imagenet-200", "tiny_imagenet", "tiny_imagenet/tiny-imagenet-200", "tiny-imagenet")
_TABLE = "val_annotations.txt"
_ARCHIVE_FILES = ("_boxes.txt", _TABLE)
# Commonly used mean and standard deviation of the training images at 64 px, scaled to 0–1.
_STATISTICS = Statistics((0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821))


def load(params: ImageParams, settings: TrainingSettings) -> Dataset:
    """Read Tiny ImageNet.

    The validation images are the test split, as usual, because the test images have no labels. The validation images
    may be in one folder with a table of their classes, as in the archive, in one folder per class, as common scripts
    rearrange them, or partly in each. Class numbers follow the sorted WordNet ids.
    """
    folders = list(candidate_folders(_FOLDERS, settings.data_dir))
    tree_and_table = _with_table(folders)
    if tree_and_table:
        tree, table = tree_and_table
        test_classes = {fields[0]: fields[1] for line in read_lines(table) if len(fields := line.split()) > 1}
        listing = list_tree(tree, test_classes=test_classes, expected=_ARCHIVE_FILES)
    elif class_tree := find_tree(folders, VAL):
        listing = list_tree(class_tree, test_classes={}, expected=_ARCHIVE_FILES)
    else:
        layouts = [
            "tiny-imagenet-200/ with train/<id>/images/*.JPEG, val/images/*.JPEG and val/val_annotations.txt, "
            "as the archive unpacks",
            "tiny_imagenet/train/<id>/*.JPEG and tiny_imagenet/val/<id>/*.JPEG",
        ]
        source = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
        raise not_found_error("tiny_imagenet", _FOLDERS, layouts, source, settings)
    augmentation = photo_augmentation(params)
    return dataset_from_listing(
        "tiny_imagenet", listing, params.image_size, augmentation, _STATISTICS, settings=settings
    )


def _with_table(folders: Iterable[Path]) -> tuple[Tree, Path] | None:
    """Return the first folder with a table of the test classes, and the path of the table."""
    for root in folders:
        train, tests = split_folders(root, VAL)
        for test in tests if train else ():
            for table in (root / test / _TABLE, root / test / "images" / _TABLE, root / _TABLE):
                if table.is_file():
                    return Tree(root, str(train), test), table
    return None
