"""The images below a folder, and what else lies there: what is left out of a data set is counted and told."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from core.data.errors import DatasetError
from core.data.sniffing import EXTENSIONS, identify
from core.undecodable import visible

_LOST_SHARE = 0.2
"""Of a class's files; above it a class is named by itself."""
_NAMED = 5
_MOST_NAMED = 12
_LONGEST_ENDING = 12

# Folders that file servers, archivers and notebooks leave. None of them is a class.
_LITTER = frozenset(
    {"__macosx", "@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "system volume information"}
    | {"lost+found", "__pycache__"}
)
_LITTER_FILES = frozenset({"thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r"})


@dataclass
class SkippedFiles:
    """What lies below a data set's folder and is no part of it.

    Attributes:
        counts: how many files or folders, by what they are; each with one of their paths.
        classes: of each class folder, files taken and files that were meant to be images, or could have been, and are
            left out. What an operating system leaves in every folder is in neither.
    """

    counts: dict[str, tuple[int, str]] = field(default_factory=dict)
    classes: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, what: str, path: str) -> None:
        count, example = self.counts.get(what, (0, path))
        self.counts[what] = count + 1, example

    def add_class(self, folder: str, taken: int, left: int) -> None:
        self.classes[folder] = taken, left

    def sentences(self) -> Iterator[str]:
        """What a person should know of it: nothing if nothing was left out."""
        if self.counts:
            ranked = sorted(self.counts.items(), key=lambda item: (-item[1][0], item[0]))
            parts = [f"{count} {what} (as {visible(example)})" for what, (count, example) in ranked[:_MOST_NAMED]]
            more = sum(count for _, (count, _) in ranked[_MOST_NAMED:])
            total = sum(count for count, _ in self.counts.values())
            yield f"left out of the images, {total} in all: {', '.join(parts)}{f', {more} others' if more else ''}"
        lost = {name: pair for name, pair in self.classes.items() if pair[1] > _LOST_SHARE * sum(pair)}
        if lost:
            named = [f"{visible(name)} {left} of {taken + left}" for name, (taken, left) in list(lost.items())[:_NAMED]]
            more = len(lost) - _NAMED
            yield (
                f"classes lose a large share of their files: {', '.join(named)}"
                f"{f' and {more} more classes' if more > 0 else ''}; see what was left out"
            )


def is_system_folder(name: str) -> bool:
    """Whether a folder of this name is hidden or left by a program, and so is no class."""
    return name.startswith(".") or name.casefold() in _LITTER


def subfolders(folder: Path, skipped: SkippedFiles | None = None) -> list[str]:
    """Names of the folders in a folder, sorted; those that hold no part of a data set are left out."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                if not is_system_folder(entry.name):
                    found.append(entry.name)
                elif skipped is not None:
                    skipped.add("hidden or system folder", f"{folder.name}/{entry.name}")
    return sorted(found)


def count_stray_files(folder: Path, skipped: SkippedFiles, *, images_only: bool = False) -> None:
    """Count the files that lie beside the class folders of a split, or those named as images beside the splits."""
    with os.scandir(folder) as entries:
        for entry in entries:
            wanted = not images_only or entry.name.lower().endswith(EXTENSIONS)
            if wanted and not entry.is_dir() and not _is_hidden(entry.name):
                skipped.add(
                    f"{describe_extension(entry.name)} outside of the class folders", f"{folder.name}/{entry.name}"
                )


def list_images(folder: Path, skipped: SkippedFiles | None = None, *, expected: tuple[str, ...] = ()) -> list[str]:
    """Every image in a folder and the folders in it, sorted, relative to it.

    Only regular files are opened. A file that is named as images are is taken for one; any other is looked into.

    Args:
        left_out: counts what is not taken.
        expected: endings of names that the data set's own archive has beside the images, which are not told of.

    Raises:
        DatasetError: a folder leads back into itself by a symbolic link.
        OSError: a folder or file cannot be read.
    """
    tally = SkippedFiles() if skipped is None else skipped
    own = f"{folder.parent.name}/{folder.name}"
    found: list[str] = []
    lost = 0
    waiting: list[tuple[str, tuple[tuple[int, int], ...]]] = [("", ())]
    while waiting:
        prefix, above = waiting.pop()
        status = os.stat(folder / prefix)
        here = (status.st_dev, status.st_ino)
        if here in above:
            raise DatasetError(
                f"the folder cannot be read: {visible(str(folder / prefix))} leads back to a folder above it "
                "(symbolic links); remove the link"
            )
        with os.scandir(folder / prefix) as entries:
            for entry in entries:
                path = f"{prefix}{entry.name}"
                if entry.is_dir():
                    if is_system_folder(entry.name):
                        tally.add("hidden or system folder", f"{own}/{path}")
                    else:
                        waiting.append((f"{path}/", (*above, here)))
                    continue
                reason = _reason(entry)
                if not reason:
                    found.append(path)
                elif not (expected and entry.name.endswith(expected)):
                    tally.add(reason, f"{own}/{path}")
                    lost += not _is_hidden(entry.name)
    tally.add_class(own, len(found), lost)
    return sorted(found)


def describe_extension(name: str) -> str:
    """The ending of a file's name, as it is counted by: ``.json``, ``.jpg`` of ``a.jpg?w=300`` too."""
    base = name.split("?")[0]
    stem, dot, ending = base.rpartition(".")
    known = dot and stem and 0 < len(ending) <= _LONGEST_ENDING and not ending.isspace()
    return f".{visible(ending).casefold()} file" if known else "file without an ending"


def _is_hidden(name: str) -> bool:
    """A file that no person has put there: macOS leaves a ``._name.jpg`` beside ``name.jpg``, which is no image."""
    return name.startswith(".") or name.casefold() in _LITTER_FILES


def _reason(entry: os.DirEntry[str]) -> str:
    """Why an entry that is no folder is not an image of the data set; empty if it is one."""
    if _is_hidden(entry.name):
        return "hidden or system file"
    ending = describe_extension(entry.name)
    try:
        status = entry.stat()
    except OSError:
        return f"{ending}, a link that leads nowhere" if entry.is_symlink() else f"{ending} that cannot be read"
    if not stat.S_ISREG(status.st_mode):
        return f"{_kind(status.st_mode)}, which is no regular file"
    if not status.st_size:
        return f"empty {ending}"
    if entry.name.lower().endswith(EXTENSIONS):
        return ""
    suffix = os.path.splitext(entry.name)[1].lower()
    try:
        readable, unreadable = identify(Path(entry.path), suffix)
    except OSError:
        return f"{ending} that cannot be read"
    if readable:
        return ""
    return f"{ending} in {unreadable}, which cannot be read here: convert it" if unreadable else f"{ending} (no image)"


def _kind(mode: int) -> str:
    kinds = {stat.S_ISFIFO: "FIFO", stat.S_ISSOCK: "socket", stat.S_ISCHR: "device", stat.S_ISBLK: "device"}
    return next((name for test, name in kinds.items() if test(mode)), "entry")
