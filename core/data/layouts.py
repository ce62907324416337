"""Where a data set lies under ``DATA_DIR``, in the forms in which archives and the field's scripts leave it."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from core.data.class_folders import fold_name
from core.data.errors import DatasetError
from core.data.image_files import Tree
from core.data.paths import missing_dataset_error
from core.data.scanning import subfolders
from core.settings import TrainingSettings
from core.undecodable import visible

_log = logging.getLogger(__name__)

TRAIN = ("train", "training")
TEST = ("test", "testing", "val", "valid", "validation")
VAL = ("val", "valid", "validation", "test", "testing")
"""Of data sets whose validation images are what everybody tests on."""

_SPLITS = frozenset((*TRAIN, *TEST))
_DEEP = 3
_SHOWN = 6
_BEHIND = re.compile("(images?|dataset|data|png|jpe?g|python|binary|format[12]|master|main)+")
"""What a repository's or an archive's name has behind a data set's own, without separators."""
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".xz", ".bz2", ".7z", ".rar")


def candidate_folders(names: Sequence[str], data_dir: Path) -> Iterator[Path]:
    """Folders that may hold a data set: the names as given, then in other spellings, then what lies in each alone.

    ``tiny-imagenet-200/tiny-imagenet-200/`` is what unpacking an archive into a folder of its name leaves.
    """
    exact = [folder for name in names if (folder := data_dir / name).is_dir()]
    simple = {simple_name(name) for name in names if name and "/" not in name}
    there = subfolders(data_dir) if data_dir.is_dir() else []
    spelled = [data_dir / name for name in there if _is_spelling(name, simple)]
    seen: set[Path] = set()
    for folder in (*exact, *spelled):
        for found in (folder, *_inside(folder, simple)) if folder != data_dir else (folder,):
            if found not in seen:
                seen.add(found)
                yield found


def find_tree(folders: Iterable[Path], tests: Sequence[str] = TEST) -> Tree | None:
    """The first folder with class folders below a training split and below one of ``tests``, the first that fits.

    A test split whose class folders are those of the training split goes before one whose are others. What lies in
    splits that are not used is told.
    """
    for root in folders:
        train, candidates = split_folders(root, tests)
        found = [name for name in candidates if subfolders(root / name)]
        if train is None or not found:
            continue
        classes = set(map(fold_name, subfolders(root / train)))
        test = next((name for name in found if set(map(fold_name, subfolders(root / name))) == classes), found[0])
        tree = Tree(root, train, test)
        for name in unused_splits(tree):
            _log.warning(
                "%s is not used: training images are those of %s, test images those of %s; val_fraction holds a "
                "validation split out of the training images",
                *map(visible, (str(root / name), train, test)),
            )
        return tree
    return None


def split_folders(root: Path, tests: Sequence[str] = TEST) -> tuple[str | None, list[str]]:
    """The training split's folder, if it has class folders, and those that may be the test split, best first."""
    there = subfolders(root)
    train = next((name for name in _in_order(there, TRAIN) if subfolders(root / name)), None)
    return train, _in_order(there, tests)


def unused_splits(tree: Tree) -> list[str]:
    """Split folders beside the two of a tree that hold class folders of the same names."""
    classes = set(map(fold_name, subfolders(tree.root / tree.train)))
    others = [
        name for name in subfolders(tree.root) if name.casefold() in _SPLITS and name not in (tree.train, tree.test)
    ]
    return [name for name in others if set(map(fold_name, subfolders(tree.root / name))) & classes]


def find_folder(path: str, data_dir: Path) -> Path | None:
    r"""The folder below ``DATA_DIR`` that a spec names; ``\xNN`` is a byte that is no UTF-8, NFC as good as NFD."""
    folder = data_dir
    for part in path.split("/"):
        exact = folder / part
        if exact.is_dir():
            folder = exact
            continue
        wanted = unicodedata.normalize("NFC", part)
        there = subfolders(folder) if folder.is_dir() else []
        names = [name for name in there if unicodedata.normalize("NFC", visible(name)) == wanted]
        if len(names) != 1:
            return None
        folder = folder / names[0]
    return folder


def unwrap_single_folder(folder: Path) -> Iterator[Path]:
    """A folder, and the one it holds if it holds no other: an archive's top folder."""
    for _ in range(_DEEP):
        yield folder
        inside = subfolders(folder)
        if len(inside) != 1 or inside[0].casefold() in _SPLITS:
            return
        folder = folder / inside[0]


def find_file(folder: Path, names: Sequence[str], *, deep: bool = True, apart_from: Iterable[str] = ()) -> Path | None:
    """The first regular file of these names in a folder or up to two folders below it.

    Args:
        deep: look below the folder too.
        apart_from: names of folders, in any spelling, that are not looked into.
    """
    barred = set(map(simple_name, apart_from))
    level = [folder]
    for _ in range(3 if deep else 1):
        for place in level:
            found = next((place / name for name in names if (place / name).is_file()), None)
            if found:
                return found
        level = [place / name for place in level for name in subfolders(place) if simple_name(name) not in barred][:200]
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
    """What to tell a person whose data set is not there, or is there in a form that is not read.

    Args:
        names: that its folder may have.
        layouts, source, settings, downloadable: see ``core.data.paths.missing_dataset_error``.
    """
    error = missing_dataset_error(name, layouts, source, settings, downloadable=downloadable)
    found = _resembling(names, settings.data_dir)
    return DatasetError(f"{error} Found there: {'; '.join(found)}.") if found else error


def describe_folder(folder: Path) -> str:
    """What a folder holds, in a few words."""
    inside = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir())
    more = f" and {len(inside) - _SHOWN} more" if len(inside) > _SHOWN else ""
    return f"{', '.join(map(visible, inside[:_SHOWN]))}{more}" if inside else "nothing"


def _resembling(names: Sequence[str], data_dir: Path) -> list[str]:
    simple = {simple_name(name.split("/")[0]) for name in names if name}
    found = []
    for entry in sorted(data_dir.iterdir()) if data_dir.is_dir() else ():
        if entry.name.startswith(".") or not any(simple_name(entry.name).startswith(name) for name in simple):
            continue
        if entry.is_dir():
            found.append(f"{visible(entry.name)}/ with {describe_folder(entry)}")
        elif entry.name.lower().endswith(_ARCHIVES):
            found.append(f"{visible(entry.name)}, an archive, which has to be unpacked there")
        else:
            found.append(f"{visible(entry.name)}, which is no folder")
    return found


def _in_order(there: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Those of the names wanted that are there, as they are spelled there."""
    return [
        name
        for want in wanted
        for name in sorted((n for n in there if n.casefold() == want), key=lambda n: (n != want, n))
    ]


def _inside(folder: Path, simple: set[str]) -> Iterator[Path]:
    yield from (found for found in unwrap_single_folder(folder) if found != folder)
    yield from (folder / name for name in subfolders(folder) if _is_spelling(name, simple))


def _is_spelling(name: str, simple: set[str]) -> bool:
    """Whether a folder has one of the names, or one with an archive's words behind: ``CIFAR-10-images-master``."""
    found = simple_name(name)
    return found in simple or any(found.startswith(one) and _BEHIND.fullmatch(found, len(one)) for one in simple)


def simple_name(name: str) -> str:
    """A folder's name without case and separators: ``Tiny-ImageNet_200`` is ``tinyimagenet200``."""
    return re.sub(r"[\s_.-]", "", name.casefold())
