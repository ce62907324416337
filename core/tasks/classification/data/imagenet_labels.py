"""Classes of ImageNet's validation images, from the table that comes with them."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from core.tasks.classification.data.errors import DatasetError
from core.tasks.classification.data.text_tables import read_lines
from core.undecodable import visible

KAGGLE = "LOC_val_solution.csv"
_SYNSETS = ("imagenet_2012_validation_synset_labels.txt", "synset_labels.txt", "validation_synset_labels.txt")
_GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_DEVKIT_FOLDERS = ("ILSVRC2012_devkit_t12/data", "devkit/data", "ILSVRC2012_devkit_t12", "data", "")
_PAIRS = ("val.txt", "val_map.txt", "val_labels.txt", "ILSVRC2012_val.txt")
_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})")

NAMES = (KAGGLE, _SYNSETS[0], f"ILSVRC2012_devkit_t12/data/{_GROUND_TRUTH} with meta.mat", "val.txt")


def labels_beside(root: Path, split: str, classes: Sequence[str], data_dir: Path) -> dict[str, str] | None:
    """Return the class (WordNet id) of each validation image, by its file name with or without extension.

    Args:
        root: folder of the splits. The table may also be in the folder of the split, or above ``root`` within
            ``data_dir``.
        split: name of the folder of the validation images.
        classes: WordNet ids in the order of their labels.
        data_dir: the folder of all data sets.

    Returns:
        None if there is no table.

    Raises:
        DatasetError: the table cannot be used.
    """
    parents = [folder for folder in root.parents if folder == data_dir or data_dir in folder.parents]
    folders = [root, root / split, *parents]
    readers: list[tuple[Sequence[str], Callable[[Path], dict[str, str]]]] = [
        ((KAGGLE,), _read_kaggle),
        (_SYNSETS, _read_synsets),
        ([f"{kit}/{_GROUND_TRUTH}".lstrip("/") for kit in _DEVKIT_FOLDERS], _read_devkit),
        (_PAIRS, lambda path: _read_pairs(path, classes)),
    ]
    for names, reader in readers:
        table = next((folder / name for folder in folders for name in names if (folder / name).is_file()), None)
        if table:
            return reader(table)
    return None


def _read_kaggle(path: Path) -> dict[str, str]:
    """Read Kaggle's table with lines ``ImageId,"id x y w h …"``."""
    try:
        return {row["ImageId"]: row["PredictionString"].partition(" ")[0] for row in csv.DictReader(read_lines(path))}
    except (KeyError, AttributeError) as error:
        raise DatasetError(
            f"{visible(str(path))} lacks the column ImageId or PredictionString, or an entry in it"
        ) from error


def _read_synsets(path: Path) -> dict[str, str]:
    """Read a table with one WordNet id per line, in the order of the image numbers."""
    return {
        f"ILSVRC2012_val_{number:08d}": line.strip() for number, line in enumerate(read_lines(path), 1) if line.strip()
    }


def _read_devkit(path: Path) -> dict[str, str]:
    """Read a table with one class number per line; ``meta.mat`` maps it to a WordNet id (not by the sorted ids)."""
    from scipy.io import loadmat

    meta = path.with_name("meta.mat")
    if not meta.is_file():
        raise DatasetError(f"{visible(str(path))} needs meta.mat in the same folder, which maps the numbers to classes")
    try:
        synsets = loadmat(meta, squeeze_me=True)["synsets"]
        wordnet_ids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
        numbers = [int(line) for line in read_lines(path) if line.strip()]
        return {f"ILSVRC2012_val_{image:08d}": wordnet_ids[number] for image, number in enumerate(numbers, 1)}
    except DatasetError:
        raise
    except Exception as error:
        raise DatasetError(
            f"{visible(str(path))} and meta.mat cannot be read: {type(error).__name__}: {error}"
        ) from error


def _read_pairs(path: Path, classes: Sequence[str]) -> dict[str, str]:
    """Read lines with an image's name and its class: a WordNet id, or its index among the sorted ids, from 0."""
    labels = {}
    for line in read_lines(path):
        fields = line.replace(",", " ").split()
        if len(fields) < 2 or not _NUMBER.search(fields[0]):
            continue
        name, label = fields[0].rpartition("/")[2], fields[1]
        if label.isdigit() and int(label) >= len(classes):
            raise DatasetError(
                f"{visible(str(path))} gives {name} the class number {label}, but there are only the classes 0 to "
                f"{len(classes) - 1}; the table must count classes from 0"
            )
        labels[name] = classes[int(label)] if label.isdigit() else label
    return labels
