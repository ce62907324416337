"""Listing of the image files of a data set and their classes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from core.tasks.classification.data.class_folders import (
    check_class_folders,
    escape_non_ascii,
    find_look_alikes,
    fold_name,
    index_by_folded_name,
    preview,
)
from core.tasks.classification.data.errors import DatasetError
from core.tasks.classification.data.scanning import SkippedFiles, count_stray_files, list_images, subfolders
from core.undecodable import visible

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageFile:
    """One image file.

    Attributes:
        path: relative to the root of the listing, with forward slashes.
        label: index of the class.
    """

    path: str
    label: int


@dataclass(frozen=True)
class Listing:
    """The images of both splits, each in a fixed order.

    Attributes:
        root: folder to which the paths are relative.
        classes: class names; a label is an index into them.
        train: training images.
        test: test images.
        skipped: the other files in the folders that were read.
    """

    root: Path
    classes: tuple[str, ...]
    train: tuple[ImageFile, ...]
    test: tuple[ImageFile, ...]
    skipped: SkippedFiles = field(default_factory=SkippedFiles)


@dataclass(frozen=True)
class Tree:
    """A folder with one folder per split.

    Attributes:
        root: the folder.
        train: name of the training split's folder, as on the disk.
        test: name of the test split's folder, as on the disk.
    """

    root: Path
    train: str = "train"
    test: str = "test"


def list_tree(
    tree: Tree,
    official: Sequence[str] | None = None,
    test_classes: Mapping[str, str] | None = None,
    expected: tuple[str, ...] = (),
) -> Listing:
    """List the images in ``root/<train>/<class>/`` and ``root/<test>/<class>/``.

    Args:
        tree: the folders of the splits.
        official: the classes in the order of their labels, all of which are required. In the names of the folders a
            space or a hyphen may replace an underscore, and all folders may be named by class numbers instead. Without
            it, class numbers follow the sorted names.
        test_classes: class of each test image by file name; these images need not be in class folders.
        expected: see ``list_images``.

    Raises:
        DatasetError: classes or images are missing.
    """
    skipped = SkippedFiles()
    count_stray_files(tree.root, skipped, images_only=True)
    names = class_names(tree.root / tree.train, official)
    class_keys = index_by_folded_name(names, tree.root / tree.train)
    for one, other in find_look_alikes(names):
        _log.warning(
            "%s: the class folders %s and %s differ only in case or in invisible characters; they are two classes",
            *(visible(str(tree.root / tree.train)), escape_non_ascii(one), escape_non_ascii(other)),
        )
    train = _by_folder(tree.root, tree.train, class_keys, skipped, expected)
    test = (
        _by_folder(tree.root, tree.test, class_keys, skipped, expected)
        if test_classes is None
        else _by_table(tree.root, tree.test, class_keys, test_classes, skipped, expected)
    )
    classes = tuple(official) if official else tuple(map(visible, names))
    return Listing(tree.root, classes, train, test, skipped)


def class_names(train: Path, official: Sequence[str] | None) -> list[str]:
    """Return the expected names of the class folders, in the order of the class numbers."""
    folders = subfolders(train)
    if official and sorted(folders) == sorted(map(str, range(len(official)))):
        return [str(number) for number in range(len(official))]
    return list(official) if official else folders


def _by_folder(
    root: Path, split: str, classes: Mapping[str, str], skipped: SkippedFiles, expected: tuple[str, ...]
) -> tuple[ImageFile, ...]:
    folder = root / split
    folders = index_by_folded_name(subfolders(folder, skipped), folder)
    if not folders.keys() & classes.keys():
        folders = _in_groups(folder, classes) or folders
    check_class_folders(folders, classes, folder)
    count_stray_files(folder, skipped)
    files: list[ImageFile] = []
    for label, key in enumerate(classes):
        paths = list_images(folder / folders[key], skipped, expected=expected)
        if not paths:
            raise _no_image(folder / folders[key], skipped)
        files.extend(ImageFile(f"{split}/{folders[key]}/{path}", label) for path in paths)
    return tuple(files)


def _in_groups(folder: Path, classes: Mapping[str, str]) -> dict[str, str] | None:
    """Return class folders one level deeper, as in CIFAR-100's superclasses; None unless they are all the classes."""
    paths = [f"{group}/{name}" for group in subfolders(folder) for name in subfolders(folder / group)]
    folders = {fold_name(path.partition("/")[2]): path for path in paths}
    return folders if folders.keys() == classes.keys() and len(paths) == len(folders) else None


def _by_table(
    root: Path,
    split: str,
    classes: Mapping[str, str],
    image_classes: Mapping[str, str],
    skipped: SkippedFiles,
    expected: tuple[str, ...],
) -> tuple[ImageFile, ...]:
    """List the images of a split whose classes are in a table.

    Images may be inside or outside of class folders, because common scripts move or copy some, all or none of them. An
    image that is both in a class folder and elsewhere counts once.

    Raises:
        DatasetError: an image has no class, folder and table contradict each other, or a class has no image in a split
            that has class folders.
    """
    folder = root / split
    number = {name: label for label, name in enumerate(classes.values())}
    sorted_in: dict[str, ImageFile] = {}
    others: dict[str, ImageFile] = {}
    unlabelled: list[str] = []
    for path in list_images(folder, skipped, expected=expected):
        *parents, name = path.split("/")
        table_class = image_classes.get(name) or image_classes.get(name.rpartition(".")[0])
        folder_class = next((part for part in parents if part in number), None)
        if folder_class is None and table_class not in number:
            unlabelled.append(path)
            continue
        if folder_class and table_class in number and table_class != folder_class:
            raise DatasetError(
                f"{visible(str(folder / path))} is in the folder {folder_class}, but the table gives it the class "
                f"{table_class}"
            )
        file = ImageFile(f"{split}/{path}", number[folder_class or str(table_class)])
        if folder_class:
            sorted_in[path] = file
        else:
            others[name] = file
    in_folders = {path.rpartition("/")[2] for path in sorted_in}
    for name in sorted(in_folders & others.keys()):
        skipped.add("copy of an image in a class folder", others.pop(name).path)
    for path in unlabelled:
        if path.rpartition("/")[2] not in in_folders:
            raise DatasetError(
                f"no table and no folder gives {visible(str(folder / path))} a class of the training split; there are "
                f"{len(unlabelled)} such images"
            )
        skipped.add("copy of an image in a class folder", f"{split}/{path}")
    if sorted_in:
        present = {file.label for file in (*sorted_in.values(), *others.values())}
        empty = [name for name, label in number.items() if label not in present]
        if empty:
            raise DatasetError(f"{visible(str(folder))} has no image of {len(empty)} classes: {preview(empty)}")
    elif not others:
        class_folders = [name for name in subfolders(folder) if name in number]
        if class_folders:
            raise _no_image(folder / class_folders[0], skipped)
    by_class = sorted(sorted_in.values(), key=lambda file: (file.label, file.path))
    return (*by_class, *others.values())


def _no_image(folder: Path, skipped: SkippedFiles) -> DatasetError:
    """Return the error for a class folder without images, with the files that were skipped in it."""
    inside = {
        what: example
        for what, (_, example) in skipped.counts.items()
        if example.startswith(f"{folder.name}/") or f"/{folder.name}/" in example
    }
    content = f"; it contains {', '.join(list(inside)[:5])}" if inside else ""
    return DatasetError(
        f"{visible(str(folder))} contains no image{content}; put images there, or remove the class from every split"
    )
