"""Animals-10 (Corrado Alessio, Kaggle): 26,179 photographs of ten animals from the web."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from core.catalog.datasets import ImageParams
from core.settings import TrainingSettings
from core.tasks.classification.data.dataset import Dataset
from core.tasks.classification.data.errors import DatasetError
from core.tasks.classification.data.holdout import held_out_indices
from core.tasks.classification.data.image_files import ImageFile, Listing, list_tree
from core.tasks.classification.data.images import dataset_from_listing, photo_augmentation
from core.tasks.classification.data.layouts import candidate_folders, find_tree, not_found_error
from core.tasks.classification.data.scanning import SkippedFiles, count_stray_files, list_images, subfolders
from core.undecodable import visible

TEST_SHARE = 0.2
_FOLDERS = ("animals10", "animals-10", "animals10/raw-img", "animals-10/raw-img", "raw-img")


def load(params: ImageParams, settings: TrainingSettings) -> Dataset:
    """Read Animals-10.

    It has no official split: a fifth of each class is the test split, the same on every machine.
    Class numbers follow the sorted folder names (which are Italian in the archive). Mean and standard deviation are
    computed from the packed images.
    """
    roots = candidate_folders(_FOLDERS, settings.data_dir)
    folders = [folder for root in roots for folder in (root, root / "raw-img") if folder.is_dir()]
    tree = find_tree(folders)
    folder = next((folder for folder in folders if len(subfolders(folder)) == 10), None)
    if tree:
        listing = list_tree(tree)
    elif folder:
        listing = _listing(folder)
    else:
        layouts = [
            "animals10/<class>/*.jpeg or animals10/raw-img/<class>/*.jpeg, as the archive unpacks, with ten classes",
            "animals10/train/<class>/*.jpeg and animals10/test/<class>/*.jpeg",
        ]
        source = "https://www.kaggle.com/datasets/alessiocorrado99/animals10"
        raise not_found_error("animals10", _FOLDERS, layouts, source, settings)
    return dataset_from_listing("animals10", listing, params.image_size, photo_augmentation(params), settings=settings)


def _listing(folder: Path) -> Listing:
    """List the images; a hash of each image's position among the sorted names selects the fifth that is held out."""
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
        raise DatasetError(f"{visible(str(folder))} has too few images to hold out a fifth of them")
    return Listing(
        folder,
        tuple(map(visible, classes)),
        train=tuple(file for index, file in enumerate(files) if index not in test),
        test=tuple(file for index, file in enumerate(files) if index in test),
        skipped=skipped,
    )
