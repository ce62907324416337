"""The worker's id. It stays the same after a restart, so that the runs which the worker held can be queued again."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self


class WorkerIdentity:
    """An id that no other running worker has, stored in ``home/workers``. A context manager that frees the id at exit.

    Workers of the same name and home get instance numbers from 1 in the order of their start. The operating system
    frees the lock on an instance number when the process that holds it ends, for any reason.

    Args:
        home: Folder of the embedded stack.
        name: Name of the worker.

    Attributes:
        id: The id, of 36 characters.
        name: The name, with the instance number appended if the number is 2 or higher.

    Raises:
        OSError: The folder cannot be written.
    """

    def __init__(self, home: Path, name: str) -> None:
        folder = home / "workers"
        folder.mkdir(parents=True, exist_ok=True)
        instance = 1
        while (lock := _lock(folder / f"{_file_name(name)}.{instance}")) is None:
            instance += 1
        self._lock: int | None = lock
        self.id = _read_or_create_id(lock)
        self.name = name if instance == 1 else f"{name}-{instance}"

    def release(self) -> None:
        """Free the id for another worker."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.release()


def _lock(path: Path) -> int | None:
    """Return a descriptor that holds the file's lock; None if another process holds it. Children do not inherit it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _read_or_create_id(descriptor: int) -> str:
    """Return the id in a locked file; write a new one if the file is empty or damaged."""
    text = os.pread(descriptor, 64, 0).decode("ascii", "replace").strip()
    try:
        return str(uuid.UUID(text))
    except ValueError:
        new_id = str(uuid.uuid4())
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{new_id}\n".encode(), 0)
        os.fsync(descriptor)
        return new_id


def _file_name(name: str) -> str:
    # The digest distinguishes names that become equal when unsafe characters are replaced.
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '_', name)[:60]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
