"""Animals-10 (Corrado Alessio, Kaggle): 26,179 photographs of ten animals from the web."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from core.catalog.datasets import ImageParams
from core.data.dataset import Dataset
from core.data.errors import DatasetError
from core.data.holdout import held_out_indices
from core.data.image_files import ImageFile, Listing, list_tree
from core.data.images import dataset_from_listing, photo_augmentation
from core.data.layouts import candidate_folders, find_tree, not_found_error
from core.data.scanning import SkippedFiles, count_stray_files, list_images, subfolders
from core.settings import TrainingSettings
from core.undecodable import visible

TEST_SHARE = 0.2
_FOLDERS = ("animals10", "animals-10", "animals10/raw-img", "animals-10/raw-img", "raw-img")


def load(params: ImageParams, settings: TrainingSettings) -> Dataset:
    """It has no official split: a fifth of each class is the test split, the same one on every machine.

    Classes are numbered as their folders are sorted (the archive names them in Italian). Mean and standard deviation
    are the packed images' own.
    """
    roots = candidate_folders(_FOLDERS, settings.data_dir)
    folders = [place for root in roots for place in (root, root / "raw-img") if place.is_dir()]
    tree = find_tree(folders)
    folder = next((place for place in folders if len(subfolders(place)) == 10), None)
    if tree:
        listing = list_tree(tree)
    elif folder:
        listing = _listing(folder)
    else:
        layouts = [
            "animals10/<class>/*.jpeg or animals10/raw-img/<class>/*.jpeg, as the archive unpacks, ten classes",
            "animals10/train/<class>/*.jpeg and animals10/test/<class>/*.jpeg",
        ]
        source = "https://www.kaggle.com/datasets/alessiocorrado99/animals10"
        raise not_found_error("animals10", _FOLDERS, layouts, source, settings)
    return dataset_from_listing("animals10", listing, params.image_size, photo_augmentation(params), settings=settings)


def _listing(folder: Path) -> Listing:
    """A fifth of each class held out by a hash of its place among the sorted names."""
    skipped = SkippedFiles()
    classes = subfolders(folder, skipped)
    count_stray_files(folder, skipped)
    files = [
        ImageFile(f"{name}/{path}", label)
        for label, name in enumerate(classes)
        for path in list_images(folder / name, skipped)
    ]
    labels = np.array([file.label for file in files], dtype=np.int64)
    test = set(held_out_indices(labels, TEST_SHARE, seed=0).tolist()) if files else set()
    if not test:
        raise DatasetError(f"{visible(str(folder))} holds too few images to hold a fifth of them out")
    return Listing(
        folder,
        tuple(map(visible, classes)),
        train=tuple(file for row, file in enumerate(files) if row not in test),
        test=tuple(file for row, file in enumerate(files) if row in test),
        skipped=skipped,
    )
