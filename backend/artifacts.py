"""The files that runs leave behind. They are found by ids; no path from outside reaches the file system."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

_log = structlog.get_logger(__name__)

_ID = re.compile(r"[0-9a-z]{1,32}")


@dataclass(frozen=True)
class StoredFile:
    """A file of a run.

    Attributes:
        id: made from its place; what a download names it by.
        attempt: that wrote it.
        name: within that attempt's folder.
        size: bytes.
    """

    id: str
    attempt: int
    name: str
    size: int
    path: Path


class Store:
    """The artifact folder.

    Args:
        root: ``runs/ID/attempt-N/…`` lies in it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def files(self, run_id: str, attempts: Sequence[int]) -> list[StoredFile]:
        """The files of these attempts of a run, the newest attempt first. Links are passed over."""
        found: list[StoredFile] = []
        for attempt in sorted(attempts, reverse=True):
            folder = self.root / "runs" / _checked(run_id) / f"attempt-{attempt:d}"
            for directory, folders, names in os.walk(folder, followlinks=False):
                folders.sort()
                for name in sorted(names):
                    path = Path(directory, name)
                    if path.is_symlink() or not path.is_file():
                        continue
                    relative = path.relative_to(folder).as_posix()
                    identity = hashlib.sha256(f"{attempt}/{relative}".encode("utf-8", "surrogateescape")).hexdigest()
                    found.append(StoredFile(identity[:16], attempt, relative, path.stat().st_size, path))
        return found

    def remove_runs(self, run_ids: Sequence[str]) -> None:
        """Remove all files of these runs. What cannot be removed is written to the log."""
        for run_id in run_ids:
            folder = self.root / "runs" / _checked(run_id)
            try:
                shutil.rmtree(folder)
            except FileNotFoundError:
                continue
            except OSError as error:
                _log.error("files of a deleted run are still there", folder=str(folder), error=str(error))


def _checked(run_id: str) -> str:
    """An id of the database. Raises ValueError for anything else, which would be a fault of ours."""
    if not _ID.fullmatch(run_id):
        raise ValueError(f"{run_id!r} is not an id")
    return run_id
