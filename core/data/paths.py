"""Where data sets lie: ``DATA_DIR``, and whether what is missing may be downloaded there (``DKD_DOWNLOAD=1``).

Downloads are off unless they are asked for: a worker without a way out would otherwise hang in each training, and
several would fetch the same archive at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

from core.data.errors import DatasetError
from core.settings import TrainingSettings
from core.undecodable import visible


class PathRefusedError(ValueError):
    """A path named in a spec that leads nowhere, or to what a spec must not have read; the message says why."""


def spec_path(text: str, kind: Literal["file", "folder"], settings: TrainingSettings) -> Path:
    """The file or folder that a spec names by its path, ``contained``.

    Args:
        text: relative to ``DATA_DIR``, or absolute.
        kind: what must be there.

    Raises PathRefusedError as ``contained``.
    """
    if "\0" in text:
        raise PathRefusedError("a path holds no character of code 0")
    return contained(settings.data_dir / Path(text).expanduser(), kind, settings)


def contained(path: Path, kind: Literal["file", "folder"], settings: TrainingSettings) -> Path:
    """A path with every link followed, where it may be read for a spec.

    Whoever may submit a spec must not have a worker read its other files: the path, and where links on it lead, must be
    in ``DATA_DIR`` or in a folder that ``DKD_DATA_ROOTS`` lists (the paths of the worker's owner, parted by colons).
    Devices, pipes and sockets are refused, which could be read without an end.

    Raises:
        PathRefusedError: nothing is there, it is something else, or it lies outside.
    """
    named = Path(os.path.normpath(path))
    shown = visible(str(named))
    roots = (settings.data_dir, *settings.data_roots)
    real = [root.resolve() for root in roots]
    if not any(named.is_relative_to(root) for root in (*roots, *real)):
        below = " or ".join(visible(str(root)) for root in roots)
        raise PathRefusedError(
            f"{shown} is not below {below}: put it there, or list its folder in the worker's DKD_DATA_ROOTS"
        )
    try:
        found = named.resolve(strict=True)
        mode = found.stat().st_mode
    except (OSError, RuntimeError) as error:  # links in a circle
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            raise PathRefusedError(f"there is no {kind} {shown} on this machine") from None
        raise PathRefusedError(f"{shown} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not any(found.is_relative_to(root) for root in real):
        raise PathRefusedError(
            f"{shown} is a link that leads out of DATA_DIR; list where it leads to in the worker's DKD_DATA_ROOTS"
        )
    if not (stat.S_ISREG if kind == "file" else stat.S_ISDIR)(mode):
        wanted = "a regular file" if kind == "file" else "a folder"
        raise PathRefusedError(f"{shown} is not {wanted}")
    return found


def missing_dataset_error(
    name: str, layouts: Iterable[str], source: str, settings: TrainingSettings, *, downloadable: bool = False
) -> DatasetError:
    """What to tell a person whose data set is not there.

    Args:
        layouts: each form in which the data set is accepted, with paths that count from ``DATA_DIR``.
        source: where it can be had.
    """
    root = settings.data_dir
    set_by = "DATA_DIR" if "data_dir" in settings.model_fields_set else "DATA_DIR is not set, so the default"
    hint = "; or set DKD_DOWNLOAD=1, and it is downloaded at the next start" if downloadable else ""
    return DatasetError(
        f"{name} is not on this machine. Put there, under {root} ({set_by}): {'; or '.join(layouts)}. "
        f"It can be had from {source}{hint}."
    )


def fetch(name: str, download: Callable[[str], object], settings: TrainingSettings) -> None:
    """Run one of torchvision's downloaders into ``DATA_DIR``, one process at a time.

    Args:
        download: takes the folder.

    Raises DatasetError where it fails.
    """
    root = settings.data_dir
    try:
        root.mkdir(parents=True, exist_ok=True)
        with locked(root / f".{name}.lock"):
            download(str(root))
    except Exception as error:
        raise DatasetError(f"{name} could not be downloaded to {root}: {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file's lock; a process that ends in whatever way lets go of it."""
    with path.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
