"""Search for the images below a folder; files that are skipped are counted and reported."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from core.tasks.classification.data.errors import DatasetError
from core.tasks.classification.data.sniffing import EXTENSIONS, identify
from core.undecodable import visible

_SKIPPED_SHARE = 0.2
"""Share of a class's files; if more are skipped, the class is named in the report."""
_MAX_CLASSES_NAMED = 5
_MAX_KINDS_NAMED = 12
_MAX_EXTENSION_LENGTH = 12

# Folders that file servers, archivers and notebooks create. None of them is a class.
_SYSTEM_FOLDERS = frozenset(
    {"__macosx", "@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "system volume information"}
    | {"lost+found", "__pycache__"}
)
_SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r"})


@dataclass
class SkippedFiles:
    """The files and folders below a data set's folder that do not belong to the data set.

    Attributes:
        counts: number of files or folders of each kind, with the path of one of them.
        classes: for each class folder, the number of images and the number of skipped files that may have been meant
            as images. Files that an operating system creates in every folder are in neither.
    """

    counts: dict[str, tuple[int, str]] = field(default_factory=dict)
    classes: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, kind: str, path: str) -> None:
        count, example = self.counts.get(kind, (0, path))
        self.counts[kind] = count + 1, example

    def add_class(self, folder: str, images: int, skipped: int) -> None:
        self.classes[folder] = images, skipped

    def sentences(self) -> Iterator[str]:
        """Yield sentences that report the skipped files; none if nothing was skipped."""
        if self.counts:
            ranked = sorted(self.counts.items(), key=lambda item: (-item[1][0], item[0]))
            parts = [
                f"{count} {kind} (for example {visible(example)})"
                for kind, (count, example) in ranked[:_MAX_KINDS_NAMED]
            ]
            more = sum(count for _, (count, _) in ranked[_MAX_KINDS_NAMED:])
            total = sum(count for count, _ in self.counts.values())
            yield f"skipped {total} files and folders: {', '.join(parts)}{f', {more} others' if more else ''}"
        affected = {name: pair for name, pair in self.classes.items() if pair[1] > _SKIPPED_SHARE * sum(pair)}
        if affected:
            named = [
                f"{visible(name)} {skipped} of {images + skipped}"
                for name, (images, skipped) in list(affected.items())[:_MAX_CLASSES_NAMED]
            ]
            more = len(affected) - _MAX_CLASSES_NAMED
            yield (
                f"a large share of the files of some classes was skipped: {', '.join(named)}"
                f"{f' and {more} more classes' if more > 0 else ''}"
            )


def is_system_folder(name: str) -> bool:
    """Return whether a folder of this name is hidden or created by a program, and is therefore not a class."""
    return name.startswith(".") or name.casefold() in _SYSTEM_FOLDERS


def subfolders(folder: Path, skipped: SkippedFiles | None = None) -> list[str]:
    """Return the sorted names of the folders in a folder, without hidden and system folders."""
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                if not is_system_folder(entry.name):
                    names.append(entry.name)
                elif skipped is not None:
                    skipped.add("hidden or system folder", f"{folder.name}/{entry.name}")
    return sorted(names)


def count_stray_files(folder: Path, skipped: SkippedFiles, *, images_only: bool = False) -> None:
    """Count the files next to class folders or splits, all of them or only those with the extension of an image."""
    with os.scandir(folder) as entries:
        for entry in entries:
            counts = not images_only or entry.name.lower().endswith(EXTENSIONS)
            if counts and not entry.is_dir() and not _is_hidden(entry.name):
                skipped.add(
                    f"{describe_extension(entry.name)} outside of the class folders", f"{folder.name}/{entry.name}"
                )


def list_images(folder: Path, skipped: SkippedFiles | None = None, *, expected: tuple[str, ...] = ()) -> list[str]:
    """Return the sorted relative paths of all images in a folder and its subfolders.

    A file with the extension of an image is taken as an image; any other regular file is recognised by its content.

    Args:
        folder: the folder.
        skipped: counts the files that are not images.
        expected: endings of the names of other files in the data set's own archive, which are not reported.

    Raises:
        DatasetError: a symbolic link makes a folder contain itself.
        OSError: a folder or file cannot be read.
    """
    tally = SkippedFiles() if skipped is None else skipped
    shown_folder = f"{folder.parent.name}/{folder.name}"
    images: list[str] = []
    skipped_count = 0
    pending: list[tuple[str, tuple[tuple[int, int], ...]]] = [("", ())]
    while pending:
        prefix, parents = pending.pop()
        status = os.stat(folder / prefix)
        identity = (status.st_dev, status.st_ino)
        if identity in parents:
            raise DatasetError(
                f"the folder cannot be read: {visible(str(folder / prefix))} leads back to a folder above it "
                "(symbolic links); remove the link"
            )
        with os.scandir(folder / prefix) as entries:
            for entry in entries:
                path = f"{prefix}{entry.name}"
                if entry.is_dir():
                    if is_system_folder(entry.name):
                        tally.add("hidden or system folder", f"{shown_folder}/{path}")
                    else:
                        pending.append((f"{path}/", (*parents, identity)))
                    continue
                reason = _skip_reason(entry)
                if not reason:
                    images.append(path)
                elif not (expected and entry.name.endswith(expected)):
                    tally.add(reason, f"{shown_folder}/{path}")
                    skipped_count += not _is_hidden(entry.name)
    tally.add_class(shown_folder, len(images), skipped_count)
    return sorted(images)


def describe_extension(name: str) -> str:
    """Return the kind of a file by its extension, such as ".json file"; ``a.jpg?w=300`` is a ".jpg file"."""
    base = name.split("?")[0]
    stem, dot, extension = base.rpartition(".")
    has_extension = dot and stem and 0 < len(extension) <= _MAX_EXTENSION_LENGTH and not extension.isspace()
    return f".{visible(extension).casefold()} file" if has_extension else "file without an extension"


def _is_hidden(name: str) -> bool:
    """Return whether a program created the file, as macOS creates ``._name.jpg`` next to ``name.jpg``."""
    return name.startswith(".") or name.casefold() in _SYSTEM_FILES


def _skip_reason(entry: os.DirEntry[str]) -> str:
    """Return why an entry that is not a folder is not an image of the data set; "" if it is one."""
    if _is_hidden(entry.name):
        return "hidden or system file"
    kind = describe_extension(entry.name)
    try:
        status = entry.stat()
    except OSError:
        return f"{kind}, a broken symbolic link" if entry.is_symlink() else f"{kind} that cannot be read"
    if not stat.S_ISREG(status.st_mode):
        return f"{_file_type(status.st_mode)}, which is not a regular file"
    if not status.st_size:
        return f"empty {kind}"
    if entry.name.lower().endswith(EXTENSIONS):
        return ""
    suffix = os.path.splitext(entry.name)[1].lower()
    try:
        readable, image_format = identify(Path(entry.path), suffix)
    except OSError:
        return f"{kind} that cannot be read"
    if readable:
        return ""
    return f"{kind} in {image_format}, which is not supported: convert it" if image_format else f"{kind} (not an image)"


def _file_type(mode: int) -> str:
    types = {stat.S_ISFIFO: "FIFO", stat.S_ISSOCK: "socket", stat.S_ISCHR: "device", stat.S_ISBLK: "device"}
    return next((name for test, name in types.items() if test(mode)), "entry")
