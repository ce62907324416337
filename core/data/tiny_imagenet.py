"""Tiny ImageNet (Stanford CS231n): 200 of ImageNet's classes at 64 px, 500 training images each."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from core.catalog.datasets import ImageParams
from core.data.dataset import Dataset
from core.data.image_files import Tree, list_tree
from core.data.images import dataset_from_listing, photo_augmentation
from core.data.layouts import VAL, candidate_folders, find_tree, not_found_error, split_folders
from core.data.statistics import Statistics
from core.data.text_tables import read_lines
from core.settings import TrainingSettings

_FOLDERS = ("tiny-imagenet-200", "tiny_imagenet", "tiny_imagenet/tiny-imagenet-200", "tiny-imagenet")
_TABLE = "val_annotations.txt"
_OWN_FILES = ("_boxes.txt", _TABLE)
# Of the training images at 64 px, scaled to 0–1, as commonly used.
_STATISTICS = Statistics((0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821))


def load(params: ImageParams, settings: TrainingSettings) -> Dataset:
    """Its validation images are the test split, as everywhere: its test images have no labels.

    They may lie in one folder with a table of their classes, as the archive has them, or in a folder a class, as the
    field's scripts rearrange them, or some here and some there. Classes are numbered as their WordNet ids are sorted.
    """
    folders = list(candidate_folders(_FOLDERS, settings.data_dir))
    found = _with_table(folders)
    if found:
        tree, table = found
        of_test = {fields[0]: fields[1] for line in read_lines(table) if len(fields := line.split()) > 1}
        listing = list_tree(tree, of_test=of_test, expected=_OWN_FILES)
    elif tree_of_ids := find_tree(folders, VAL):
        listing = list_tree(tree_of_ids, of_test={}, expected=_OWN_FILES)
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
    for root in folders:
        train, tests = split_folders(root, VAL)
        for test in tests if train else ():
            for table in (root / test / _TABLE, root / test / "images" / _TABLE, root / _TABLE):
                if table.is_file():
                    return Tree(root, str(train), test), table
    return None
