"""Search for a data set under ``DATA_DIR``, in the layouts that archives and common scripts produce."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from core.settings import TrainingSettings
from core.tasks.classification.data.class_folders import fold_name
from core.tasks.classification.data.errors import DatasetError
from core.tasks.classification.data.image_files import Tree
from core.tasks.classification.data.paths import missing_dataset_error
from core.tasks.classification.data.scanning import subfolders
from core.undecodable import visible

_log = logging.getLogger(__name__)

TRAIN = ("train", "training")
TEST = ("test", "testing", "val", "valid", "validation")
VAL = ("val", "valid", "validation", "test", "testing")
"""Names of the test split of data sets whose validation images are the usual test images, best first."""

_SPLITS = frozenset((*TRAIN, *TEST))
_MAX_NESTED = 3
_MAX_SHOWN = 6
_NAME_SUFFIX = re.compile("(images?|dataset|data|png|jpe?g|python|binary|format[12]|master|main)+")
"""Suffixes of a data set's name in the names of repositories and archives, without separators."""
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".xz", ".bz2", ".7z", ".rar")


def candidate_folders(names: Sequence[str], data_dir: Path) -> Iterator[Path]:
    """Yield the folders that may contain a data set: first the exact names, then other spellings of them.

    After each folder come the folders in it that are its only content or have one of the names: unpacking an archive
    into a folder of its name gives ``tiny-imagenet-200/tiny-imagenet-200/``.

    Args:
        names: usual names of the data set's folder, relative to ``DATA_DIR``; "" stands for ``DATA_DIR`` itself.
    """
    exact = [folder for name in names if (folder := data_dir / name).is_dir()]
    normalised = {normalise_name(name) for name in names if name and "/" not in name}
    present = subfolders(data_dir) if data_dir.is_dir() else []
    variants = [data_dir / name for name in present if _is_spelling(name, normalised)]
    seen: set[Path] = set()
    for folder in (*exact, *variants):
        for candidate in (folder, *_inside(folder, normalised)) if folder != data_dir else (folder,):
            if candidate not in seen:
                seen.add(candidate)
                yield candidate


def find_tree(folders: Iterable[Path], tests: Sequence[str] = TEST) -> Tree | None:
    """Return the first folder with class folders in a training split and in a test split; None if there is none.

    A test split with the same class folders as the training split is preferred. Splits that are not used are logged.

    Args:
        folders: candidates, best first.
        tests: possible names of the test split, best first.
    """
    for root in folders:
        train, candidates = split_folders(root, tests)
        with_classes = [name for name in candidates if subfolders(root / name)]
        if train is None or not with_classes:
            continue
        classes = set(map(fold_name, subfolders(root / train)))
        test = next(
            (name for name in with_classes if set(map(fold_name, subfolders(root / name))) == classes), with_classes[0]
        )
        tree = Tree(root, train, test)
        for name in unused_splits(tree):
            _log.warning(
                "%s is not used: the training images are in %s, the test images in %s; val_fraction holds a "
                "validation split out of the training images",
                *map(visible, (str(root / name), train, test)),
            )
        return tree
    return None


def split_folders(root: Path, tests: Sequence[str] = TEST) -> tuple[str | None, list[str]]:
    """Return the training split's folder, if it has class folders, and the possible test splits, best first."""
    present = subfolders(root)
    train = next((name for name in _in_order(present, TRAIN) if subfolders(root / name)), None)
    return train, _in_order(present, tests)


def unused_splits(tree: Tree) -> list[str]:
    """Return the other split folders of a tree that contain class folders of the same names."""
    classes = set(map(fold_name, subfolders(tree.root / tree.train)))
    others = [
        name for name in subfolders(tree.root) if name.casefold() in _SPLITS and name not in (tree.train, tree.test)
    ]
    return [name for name in others if set(map(fold_name, subfolders(tree.root / name))) & classes]


def find_folder(path: str, data_dir: Path) -> Path | None:
    r"""Return the folder below ``DATA_DIR`` that a spec names; None if there is none.

    ``\xNN`` stands for a byte that is not UTF-8, and the Unicode forms NFC and NFD are equivalent.
    """
    folder = data_dir
    for part in path.split("/"):
        exact = folder / part
        if exact.is_dir():
            folder = exact
            continue
        normalised = unicodedata.normalize("NFC", part)
        present = subfolders(folder) if folder.is_dir() else []
        names = [name for name in present if unicodedata.normalize("NFC", visible(name)) == normalised]
        if len(names) != 1:
            return None
        folder = folder / names[0]
    return folder


def unwrap_single_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder and then, as long as a folder contains exactly one folder, that one."""
    for _ in range(_MAX_NESTED):
        yield folder
        inside = subfolders(folder)
        if len(inside) != 1 or inside[0].casefold() in _SPLITS:
            return
        folder = folder / inside[0]


def find_file(folder: Path, names: Sequence[str], *, deep: bool = True, excluded: Iterable[str] = ()) -> Path | None:
    """Return the first regular file with one of the names in a folder or up to two levels below it; None if absent.

    Args:
        folder: the folder.
        names: names of the file, best first.
        deep: whether to search below the folder too.
        excluded: names of folders, in any spelling, that are not searched.
    """
    excluded_names = set(map(normalise_name, excluded))
    level = [folder]
    for _ in range(3 if deep else 1):
        for parent in level:
            file = next((parent / name for name in names if (parent / name).is_file()), None)
            if file:
                return file
        level = [
            parent / name
            for parent in level
            for name in subfolders(parent)
            if normalise_name(name) not in excluded_names
        ]
        level = level[:200]
    return None


def not_found_error(
    name: str,
    names: Sequence[str],
    layouts: Sequence[str],
    source: str,
    settings: TrainingSettings,
    *,
    downloadable: bool = False,
) -> DatasetError:
    """Return the error for a data set that is missing, or present in a layout that is not supported.

    Args:
        name: name of the data set.
        names: usual names of its folder.
        layouts: see ``core.tasks.classification.data.paths.missing_dataset_error``.
        source: see ``core.tasks.classification.data.paths.missing_dataset_error``.
        settings: the folders of this machine.
        downloadable: see ``core.tasks.classification.data.paths.missing_dataset_error``.
    """
    error = missing_dataset_error(name, layouts, source, settings, downloadable=downloadable)
    similar = _similar_entries(names, settings.data_dir)
    return DatasetError(f"{error} Found there: {'; '.join(similar)}.") if similar else error


def describe_folder(folder: Path) -> str:
    """Return the names of the first entries of a folder, for messages."""
    inside = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir())
    more = f" and {len(inside) - _MAX_SHOWN} more" if len(inside) > _MAX_SHOWN else ""
    return f"{', '.join(map(visible, inside[:_MAX_SHOWN]))}{more}" if inside else "nothing"


def _similar_entries(names: Sequence[str], data_dir: Path) -> list[str]:
    """Return descriptions of the entries of ``DATA_DIR`` whose names begin with one of the names."""
    normalised = {normalise_name(name.split("/")[0]) for name in names if name}
    descriptions = []
    for entry in sorted(data_dir.iterdir()) if data_dir.is_dir() else ():
        if entry.name.startswith(".") or not any(normalise_name(entry.name).startswith(name) for name in normalised):
            continue
        if entry.is_dir():
            descriptions.append(f"{visible(entry.name)}/ with {describe_folder(entry)}")
        elif entry.name.lower().endswith(_ARCHIVES):
            descriptions.append(f"{visible(entry.name)}, an archive that has to be unpacked there")
        else:
            descriptions.append(f"{visible(entry.name)}, which is not a folder")
    return descriptions


def _in_order(present: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Return the wanted names that are present, in the wanted order and as they are spelled on the disk."""
    return [
        name
        for want in wanted
        for name in sorted((n for n in present if n.casefold() == want), key=lambda n: (n != want, n))
    ]


def _inside(folder: Path, normalised: set[str]) -> Iterator[Path]:
    yield from (inner for inner in unwrap_single_folder(folder) if inner != folder)
    yield from (folder / name for name in subfolders(folder) if _is_spelling(name, normalised))


def _is_spelling(name: str, normalised: set[str]) -> bool:
    """Return whether a folder has one of the names, or one with a usual suffix: ``CIFAR-10-images-master``."""
    folder = normalise_name(name)
    return folder in normalised or any(
        folder.startswith(one) and _NAME_SUFFIX.fullmatch(folder, len(one)) for one in normalised
    )


def normalise_name(name: str) -> str:
    """Return a folder's name without case and separators: ``Tiny-ImageNet_200`` becomes ``tinyimagenet200``."""
    return re.sub(r"[\s_.-]", "", name.casefold())
