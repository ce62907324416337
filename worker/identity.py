"""Who a worker is: an id that stays over restarts, so that it can hand back what it held when it died."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self


class Identity:
    """An id that no other living worker has, kept in ``home/workers``. A context manager; leaving it frees the id.

    Two workers of one name on one home get the ids of places 1 and 2; which of them comes first takes place 1. The
    lock ends with the process that holds it, however that ends.

    Attributes:
        id: 36 characters.
        name: as given, with the place behind it from the second on.
    """

    def __init__(self, home: Path, name: str) -> None:
        folder = home / "workers"
        folder.mkdir(parents=True, exist_ok=True)
        place = 1
        while (lock := _lock(folder / f"{_file_name(name)}.{place}")) is None:
            place += 1
        self._lock: int | None = lock
        self.id = _kept_id(lock)
        self.name = name if place == 1 else f"{name}-{place}"

    def release(self) -> None:
        """Let another worker have the id."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.release()


def _lock(path: Path) -> int | None:
    """A file descriptor that holds the file's lock; None where another has it. Never inherited by a child."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _kept_id(descriptor: int) -> str:
    """The id in a locked file, made where there is none yet or the file was torn."""
    text = os.pread(descriptor, 64, 0).decode("ascii", "replace").strip()
    try:
        return str(uuid.UUID(text))
    except ValueError:
        made = str(uuid.uuid4())
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{made}\n".encode(), 0)
        os.fsync(descriptor)
        return made


def _file_name(name: str) -> str:
    # The digest keeps names apart that are equal once unfit characters are replaced.
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '_', name)[:60]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
