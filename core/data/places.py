"""Where data sets lie: ``DATA_DIR``, and whether what is missing may be downloaded there (``DKD_DOWNLOAD=1``).

Downloads are off unless they are asked for: a worker without a way out would otherwise hang in each training, and
several would fetch the same archive at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from core.data.errors import DatasetError


def data_dir() -> Path:
    """``DATA_DIR``, else ``~/.cache/dkd-lab/datasets``. Need not exist."""
    given = os.environ.get("DATA_DIR")
    return Path(given or "~/.cache/dkd-lab/datasets").expanduser().absolute()


def pack_dir() -> Path:
    """Where packed images are kept: ``DKD_PACK_DIR``, else ``.packed`` in ``DATA_DIR``."""
    given = os.environ.get("DKD_PACK_DIR")
    return Path(given).expanduser().absolute() if given else data_dir() / ".packed"


def cache_dir() -> Path:
    """Where trainings keep what they can make again: ``DKD_CACHE_DIR``, else ``~/.cache/dkd-lab``. Need not exist."""
    given = os.environ.get("DKD_CACHE_DIR")
    return Path(given or "~/.cache/dkd-lab").expanduser().absolute()


def download_allowed() -> bool:
    """Whether ``DKD_DOWNLOAD`` is 1. Raises DatasetError where it is neither 1, 0 nor empty."""
    given = os.environ.get("DKD_DOWNLOAD", "")
    if given not in ("", "0", "1"):
        raise DatasetError(f"DKD_DOWNLOAD is {given!r}; it is 1 to allow downloads, 0 or empty to forbid them")
    return given == "1"


def missing(name: str, layouts: Iterable[str], source: str, *, downloadable: bool = False) -> DatasetError:
    """What to tell a person whose data set is not there.

    Args:
        layouts: each form in which the data set is accepted, with paths that count from ``DATA_DIR``.
        source: where it can be had.
    """
    root = data_dir()
    set_by = "DATA_DIR" if os.environ.get("DATA_DIR") else "DATA_DIR is not set, so the default"
    hint = "; or set DKD_DOWNLOAD=1, and it is downloaded at the next start" if downloadable else ""
    return DatasetError(
        f"{name} is not on this machine. Put there, under {root} ({set_by}): {'; or '.join(layouts)}. "
        f"It can be had from {source}{hint}."
    )


def fetch(name: str, download: Callable[[str], object]) -> None:
    """Run one of torchvision's downloaders into ``DATA_DIR``, one process at a time.

    Args:
        download: takes the folder.

    Raises DatasetError where it fails.
    """
    root = data_dir()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with locked(root / f".{name}.lock"):
            download(str(root))
    except Exception as error:
        raise DatasetError(f"{name} could not be downloaded to {root}: {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file's lock; a process that ends in whatever way lets go of it."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
