"""Image files on the disk: which ones make a data set, and of which class each is."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.data.errors import DatasetError
from core.data.places import data_dir

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class ImageFile:
    """One image.

    Attributes:
        path: from the listing's root, with forward slashes.
        label: its class's number.
    """

    path: str
    label: int


@dataclass(frozen=True)
class Listing:
    """The images of both splits, each in a fixed order.

    Attributes:
        root: the folder from which paths count.
        classes: their names; a label is an index into them.
    """

    root: Path
    classes: tuple[str, ...]
    train: tuple[ImageFile, ...]
    test: tuple[ImageFile, ...]


def images_below(folder: Path) -> list[str]:
    """Every image file in a folder and the folders in it, sorted, relative to it; hidden ones are left out."""
    found: list[str] = []
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        with os.scandir(folder / prefix) as entries:
            for entry in entries:
                if entry.name.startswith("."):  # macOS leaves a hidden ._name.jpg beside name.jpg, which is none
                    continue
                if entry.name.lower().endswith(EXTENSIONS):
                    found.append(prefix + entry.name)
                elif entry.is_dir():
                    waiting.append(f"{prefix}{entry.name}/")
    return sorted(found)


def class_folders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted; hidden ones are left out."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def find_tree(names: Iterable[str], tests: Sequence[str] = ("test",)) -> tuple[Path, str] | None:
    """The first folder of these under ``DATA_DIR`` with class folders below ``train`` and below one of ``tests``.

    Returns the folder and which of ``tests`` it has.
    """
    for name in names:
        root = data_dir() / name
        for test in tests:
            if all((root / part).is_dir() and class_folders(root / part) for part in ("train", test)):
                return root, test
    return None


def list_tree(root: Path, test: str = "test", official: Sequence[str] | None = None) -> Listing:
    """The images in ``root/train/<class>/`` and ``root/<test>/<class>/``.

    Args:
        official: the classes in the order of their numbers, all of which must be there; in the folders' names a space
            or a hyphen may stand for an underscore. Without it, classes are numbered as their names are sorted.

    Raises DatasetError where classes or images are missing.
    """
    classes = tuple(official) if official else tuple(class_folders(root / "train"))
    return Listing(root, classes, _split(root, "train", classes), _split(root, test, classes))


def _split(root: Path, split: str, classes: tuple[str, ...]) -> tuple[ImageFile, ...]:
    folders = {name.replace(" ", "_").replace("-", "_"): name for name in class_folders(root / split)}
    number = {name.replace(" ", "_").replace("-", "_"): label for label, name in enumerate(classes)}
    if len(number) < len(classes) or len(folders) < len(class_folders(root / split)):
        raise DatasetError(f"{root / split}: two class folders differ only by a space, a hyphen or an underscore")
    strange = [name for key, name in folders.items() if key not in number]
    absent = [classes[label] for key, label in number.items() if key not in folders]
    if strange:
        raise DatasetError(f"{root / split} has class folders that are no class: {_some(strange)}")
    if absent:
        raise DatasetError(f"{root / split} lacks folders of {len(absent)} classes: {_some(absent)}")
    files: list[ImageFile] = []
    for key, label in number.items():
        below = images_below(root / split / folders[key])
        if not below:
            raise DatasetError(f"{root / split / folders[key]} holds no image ({', '.join(EXTENSIONS)})")
        files.extend(ImageFile(f"{split}/{folders[key]}/{path}", label) for path in below)
    return tuple(files)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (" …" if len(names) > 5 else "")
