"""Allows one backend per SQLite file: two backends would both hand out the same runs and write to the file."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, make_url


class DatabaseInUseError(Exception):
    """Another backend serves this database."""


@contextmanager
def single_owner(database_url: str | URL, address: str) -> Iterator[None]:
    """Hold a lock on a SQLite database while it is served. PostgreSQL accepts any number of backends.

    The kernel holds the lock, so it ends with the process in every case. The lock is on a file beside the database:
    closing a descriptor of the database itself would release SQLite's own locks.

    Args:
        address: The address of this backend, which the error of a second one contains.

    Raises:
        DatabaseInUseError: Another backend serves the database.
    """
    url = make_url(database_url)
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        yield
        return
    path = Path(url.database).resolve()  # links to one file share one lock
    lock = path.with_name(f"{path.name}.served")
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 500, 0).decode("utf-8", "replace").strip() or "a process that is starting"
            raise DatabaseInUseError(
                f"{path} is already served by {holder}; stop that backend, or give this one another database"
            ) from None
        except OSError:  # the file system has no locks
            yield
            return
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} at {address}".encode(), 0)
        yield
    finally:
        os.close(descriptor)
