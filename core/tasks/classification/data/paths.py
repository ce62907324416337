"""Folders of data sets and caches (``DATA_DIR``), checks of paths in specs, and downloads (``DKD_DOWNLOAD=1``).

Downloads are off by default: a worker without network access would otherwise hang in every training, and several
workers would fetch the same archive at once.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from core.settings import TrainingSettings
from core.tasks.classification.data.errors import DatasetError
from core.tasks.file_lock import locked
from core.undecodable import visible


class PathRefusedError(ValueError):
    """A path in a spec does not exist, or leads to a file that a spec must not read. The message gives the reason."""


def spec_path(text: str, kind: Literal["file", "folder"], settings: TrainingSettings) -> Path:
    """Return the file or folder that a spec names, checked by ``contained``.

    Args:
        text: path relative to ``DATA_DIR``, or absolute.
        kind: the required type.
        settings: the folders that a spec may read.

    Raises:
        PathRefusedError: see ``contained``.
    """
    if "\0" in text:
        raise PathRefusedError("a path cannot contain the character with code 0")
    return contained(settings.data_dir / Path(text).expanduser(), kind, settings)


def contained(path: Path, kind: Literal["file", "folder"], settings: TrainingSettings) -> Path:
    """Return a path with every symbolic link resolved, if a spec may read it.

    A spec must not make a worker read its other files: the path and the targets of its links must be in ``DATA_DIR``
    or in a folder listed in ``DKD_DATA_ROOTS`` (paths set by the worker's owner, separated by colons). Devices, pipes
    and sockets are refused, because reading them may never end.

    Args:
        path: the path.
        kind: the required type.
        settings: the folders that a spec may read.

    Raises:
        PathRefusedError: the path does not exist, has another type, or is outside of these folders.
    """
    normalised = Path(os.path.normpath(path))
    shown = visible(str(normalised))
    roots = (settings.data_dir, *settings.data_roots)
    real_roots = [root.resolve() for root in roots]
    if not any(normalised.is_relative_to(root) for root in (*roots, *real_roots)):
        allowed = " or ".join(visible(str(root)) for root in roots)
        raise PathRefusedError(
            f"{shown} is not below {allowed}: put it there, or list its folder in the worker's DKD_DATA_ROOTS"
        )
    try:
        resolved = normalised.resolve(strict=True)
        mode = resolved.stat().st_mode
    except (OSError, RuntimeError) as error:  # links that form a cycle
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            raise PathRefusedError(f"there is no {kind} {shown} on this machine") from None
        raise PathRefusedError(f"{shown} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not any(resolved.is_relative_to(root) for root in real_roots):
        raise PathRefusedError(
            f"{shown} is a link to a path outside of DATA_DIR; list its target's folder in the worker's DKD_DATA_ROOTS"
        )
    if not (stat.S_ISREG if kind == "file" else stat.S_ISDIR)(mode):
        required = "a regular file" if kind == "file" else "a folder"
        raise PathRefusedError(f"{shown} is not {required}")
    return resolved


def missing_dataset_error(
    name: str, layouts: Iterable[str], source: str, settings: TrainingSettings, *, downloadable: bool = False
) -> DatasetError:
    """Return the error for a data set that is not on this machine.

    Args:
        name: name of the data set.
        layouts: the supported layouts, with paths relative to ``DATA_DIR``.
        source: where the data set is published.
        settings: the folders of this machine.
        downloadable: whether ``DKD_DOWNLOAD=1`` downloads it.
    """
    root = settings.data_dir
    set_by = "DATA_DIR" if "data_dir" in settings.model_fields_set else "DATA_DIR is not set, so the default"
    hint = "; or set DKD_DOWNLOAD=1 to download it at the next start" if downloadable else ""
    return DatasetError(
        f"{name} is not on this machine. Put it under {root} ({set_by}) in one of these layouts: "
        f"{'; or '.join(layouts)}. It is published at {source}{hint}."
    )


def fetch(name: str, download: Callable[[str], object], settings: TrainingSettings) -> None:
    """Download a data set into ``DATA_DIR``, in one process at a time.

    Args:
        name: name of the data set.
        download: a function that downloads into the given folder.
        settings: the folders of this machine.

    Raises:
        DatasetError: the download failed.
    """
    root = settings.data_dir
    try:
        root.mkdir(parents=True, exist_ok=True)
        with locked(root / f".{name}.lock"):
            download(str(root))
    except Exception as error:
        raise DatasetError(f"{name} could not be downloaded to {root}: {type(error).__name__}: {error}") from error
