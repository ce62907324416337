"""Classes of ImageNet's validation images, from whichever table lies beside them."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from core.data.errors import DatasetError
from core.data.text_tables import read_lines
from core.undecodable import visible

KAGGLE = "LOC_val_solution.csv"
_SYNSETS = ("imagenet_2012_validation_synset_labels.txt", "synset_labels.txt", "validation_synset_labels.txt")
_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_KITS = ("ILSVRC2012_devkit_t12/data", "devkit/data", "ILSVRC2012_devkit_t12", "data", "")
_PAIRS = ("val.txt", "val_map.txt", "val_labels.txt", "ILSVRC2012_val.txt")
_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})")

NAMES = (KAGGLE, _SYNSETS[0], f"ILSVRC2012_devkit_t12/data/{_TRUTH} with meta.mat", "val.txt")


def labels_beside(root: Path, split: str, classes: Sequence[str], data_dir: Path) -> dict[str, str] | None:
    """The class (WordNet id) of each validation image, by its file's name with or without the ending.

    Args:
        root: the folder with the splits; the tables may also lie in a folder above it, or in the split's own.
        classes: WordNet ids in the order of their numbers.
        data_dir: the folder of all data sets, above which no table is read.

    Returns None if there is no table. Raises DatasetError if there is one that cannot be used.
    """
    above = [folder for folder in root.parents if folder == data_dir or data_dir in folder.parents]
    places = [root, root / split, *above]
    readers: list[tuple[Sequence[str], Callable[[Path], dict[str, str]]]] = [
        ((KAGGLE,), _of_kaggle),
        (_SYNSETS, _of_synsets),
        ([f"{kit}/{_TRUTH}".lstrip("/") for kit in _KITS], _of_devkit),
        (_PAIRS, lambda path: _of_pairs(path, classes)),
    ]
    for names, reader in readers:
        found = next((place / name for place in places for name in names if (place / name).is_file()), None)
        if found:
            return reader(found)
    return None


def _of_kaggle(path: Path) -> dict[str, str]:
    """``ImageId,"id x y w h …"``."""
    try:
        return {row["ImageId"]: row["PredictionString"].partition(" ")[0] for row in csv.DictReader(read_lines(path))}
    except (KeyError, AttributeError) as error:
        raise DatasetError(f"{visible(str(path))} lacks a column ImageId or PredictionString, or an entry") from error


def _of_synsets(path: Path) -> dict[str, str]:
    """A WordNet id a line, in the order of the images' numbers."""
    return {
        f"ILSVRC2012_val_{number:08d}": line.strip() for number, line in enumerate(read_lines(path), 1) if line.strip()
    }


def _of_devkit(path: Path) -> dict[str, str]:
    """A number a line, of which ``meta.mat`` says which WordNet id it is: not the number of the sorted ids."""
    from scipy.io import loadmat

    meta = path.with_name("meta.mat")
    if not meta.is_file():
        raise DatasetError(f"{visible(str(path))} needs meta.mat beside it, which says which class each number is")
    try:
        synsets = loadmat(meta, squeeze_me=True)["synsets"]
        of_number = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
        numbers = [int(line) for line in read_lines(path) if line.strip()]
        return {f"ILSVRC2012_val_{place:08d}": of_number[number] for place, number in enumerate(numbers, 1)}
    except DatasetError:
        raise
    except Exception as error:
        raise DatasetError(
            f"{visible(str(path))} and meta.mat cannot be read: {type(error).__name__}: {error}"
        ) from error


def _of_pairs(path: Path, classes: Sequence[str]) -> dict[str, str]:
    """An image's name and its class a line: a WordNet id, or its place among the sorted ones, counted from 0."""
    found = {}
    for line in read_lines(path):
        fields = line.replace(",", " ").split()
        if len(fields) < 2 or not _NUMBER.search(fields[0]):
            continue
        name, label = fields[0].rpartition("/")[2], fields[1]
        if label.isdigit() and int(label) >= len(classes):
            raise DatasetError(
                f"{visible(str(path))} gives {name} the number {label}, where there are the classes 0 to "
                f"{len(classes) - 1}; it is no table of classes counted from 0"
            )
        found[name] = classes[int(label)] if label.isdigit() else label
    return found
