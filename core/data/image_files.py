"""Image files on the disk: which ones make a data set, and of which class each is."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from core.data.class_folders import (
    check_class_folders,
    escape_non_ascii,
    find_look_alikes,
    fold_name,
    index_by_folded_name,
    preview,
)
from core.data.errors import DatasetError
from core.data.scanning import SkippedFiles, count_stray_files, list_images, subfolders
from core.undecodable import visible

_log = logging.getLogger(__name__)


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
        left_out: what else lies in the folders that were read.
    """

    root: Path
    classes: tuple[str, ...]
    train: tuple[ImageFile, ...]
    test: tuple[ImageFile, ...]
    skipped: SkippedFiles = field(default_factory=SkippedFiles)


@dataclass(frozen=True)
class Tree:
    """A folder with one folder a split.

    Attributes:
        train, test: names of the splits' folders, as they are on the disk.
    """

    root: Path
    train: str = "train"
    test: str = "test"


def list_tree(
    tree: Tree,
    official: Sequence[str] | None = None,
    of_test: Mapping[str, str] | None = None,
    expected: tuple[str, ...] = (),
) -> Listing:
    """The images in ``root/<train>/<class>/`` and ``root/<test>/<class>/``.

    Args:
        official: the classes in the order of their numbers, all of which must be there; in the folders' names a space
            or a hyphen may stand for an underscore, and all may be named by their numbers. Without it, classes are
            numbered as their names are sorted.
        of_test: class of each test image by its file's name; those images need lie in no class folder.
        expected: see ``list_images``.

    Raises DatasetError if classes or images are missing.
    """
    skipped = SkippedFiles()
    count_stray_files(tree.root, skipped, images_only=True)
    names = class_names(tree.root / tree.train, official)
    wanted = index_by_folded_name(names, tree.root / tree.train)
    for one, other in find_look_alikes(names):
        _log.warning(
            "%s: the class folders %s and %s differ only in case or in characters that are not seen; they are two "
            "classes",
            *(visible(str(tree.root / tree.train)), escape_non_ascii(one), escape_non_ascii(other)),
        )
    train = _by_folder(tree.root, tree.train, wanted, skipped, expected)
    test = (
        _by_folder(tree.root, tree.test, wanted, skipped, expected)
        if of_test is None
        else _by_table(tree.root, tree.test, wanted, of_test, skipped, expected)
    )
    shown = tuple(official) if official else tuple(map(visible, names))
    return Listing(tree.root, shown, train, test, skipped)


def class_names(train: Path, official: Sequence[str] | None) -> list[str]:
    """Names that class folders have, in the order of the classes' numbers."""
    found = subfolders(train)
    if official and sorted(found) == sorted(map(str, range(len(official)))):
        return [str(number) for number in range(len(official))]
    return list(official) if official else found


def _by_folder(
    root: Path, split: str, wanted: Mapping[str, str], skipped: SkippedFiles, expected: tuple[str, ...]
) -> tuple[ImageFile, ...]:
    folder = root / split
    found = index_by_folded_name(subfolders(folder, skipped), folder)
    if not found.keys() & wanted.keys():
        found = _in_groups(folder, wanted) or found
    check_class_folders(found, wanted, folder)
    count_stray_files(folder, skipped)
    files: list[ImageFile] = []
    for label, key in enumerate(wanted):
        below = list_images(folder / found[key], skipped, expected=expected)
        if not below:
            raise _no_image(folder / found[key], skipped)
        files.extend(ImageFile(f"{split}/{found[key]}/{path}", label) for path in below)
    return tuple(files)


def _in_groups(folder: Path, wanted: Mapping[str, str]) -> dict[str, str] | None:
    """Class folders one level deeper, as in CIFAR-100's superclasses; None unless they are the classes."""
    paths = [f"{group}/{name}" for group in subfolders(folder) for name in subfolders(folder / group)]
    found = {fold_name(path.partition("/")[2]): path for path in paths}
    return found if found.keys() == wanted.keys() and len(paths) == len(found) else None


def _by_table(
    root: Path,
    split: str,
    wanted: Mapping[str, str],
    of_image: Mapping[str, str],
    skipped: SkippedFiles,
    expected: tuple[str, ...],
) -> tuple[ImageFile, ...]:
    """Images in class folders and beside them: the field's scripts move or copy some, all or none into class folders.

    An image that lies in a class folder and elsewhere too counts once.

    Raises DatasetError if an image has no class, if folder and table contradict each other, or if a class has no image
    in a split that has class folders.
    """
    folder = root / split
    number = {name: label for label, name in enumerate(wanted.values())}
    sorted_in: dict[str, ImageFile] = {}
    others: dict[str, ImageFile] = {}
    unlabelled: list[str] = []
    for path in list_images(folder, skipped, expected=expected):
        *above, name = path.split("/")
        of_table = of_image.get(name) or of_image.get(name.rpartition(".")[0])
        own = next((part for part in above if part in number), None)
        if own is None and of_table not in number:
            unlabelled.append(path)
            continue
        if own and of_table in number and of_table != own:
            raise DatasetError(f"{visible(str(folder / path))} lies in {own}, and the table says that it is {of_table}")
        file = ImageFile(f"{split}/{path}", number[own or str(of_table)])
        if own:
            sorted_in[path] = file
        else:
            others[name] = file
    in_folders = {path.rpartition("/")[2] for path in sorted_in}
    for name in sorted(in_folders & others.keys()):
        skipped.add("copy of an image in a class folder", others.pop(name).path)
    for path in unlabelled:
        if path.rpartition("/")[2] not in in_folders:
            raise DatasetError(
                f"no table and no folder gives {visible(str(folder / path))} a class that is trained on; it is one of "
                f"{len(unlabelled)} such images"
            )
        skipped.add("copy of an image in a class folder", f"{split}/{path}")
    if sorted_in:
        there = {file.label for file in (*sorted_in.values(), *others.values())}
        empty = [name for name, label in number.items() if label not in there]
        if empty:
            raise DatasetError(f"{visible(str(folder))} has no image of {len(empty)} classes: {preview(empty)}")
    elif not others:
        own_folders = [name for name in subfolders(folder) if name in number]
        if own_folders:
            raise _no_image(folder / own_folders[0], skipped)
    by_class = sorted(sorted_in.values(), key=lambda file: (file.label, file.path))
    return (*by_class, *others.values())


def _no_image(folder: Path, skipped: SkippedFiles) -> DatasetError:
    inside = {
        what: example
        for what, (_, example) in skipped.counts.items()
        if example.startswith(f"{folder.name}/") or f"/{folder.name}/" in example
    }
    holds = f"; it holds {', '.join(list(inside)[:5])}" if inside else ""
    return DatasetError(
        f"{visible(str(folder))} holds no image{holds}; put images there, or remove it from every split"
    )
