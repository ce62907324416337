"""One backend a SQLite file: two would each believe that they alone give out its runs and write to it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, make_url


class ServedError(Exception):
    """Another backend serves this database."""


@contextmanager
def sole_server(database_url: str | URL, address: str) -> Iterator[None]:
    """Hold the database's file while it is served; PostgreSQL takes any number of backends.

    The lock is the kernel's, on a file beside the database, and ends with the process however that ends. Not on the
    database itself: to close a descriptor of it would drop SQLite's own locks.

    Args:
        address: that is named to a second backend.

    Raises:
        ServedError: with who serves it.
    """
    url = make_url(database_url)
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        yield
        return
    # By its real path: a link to the file is the same file.
    path = Path(url.database).resolve()
    lock = path.with_name(f"{path.name}.served")
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 500, 0).decode("utf-8", "replace").strip() or "a process that is starting"
            raise ServedError(
                f"{path} is served already, by {holder}; stop that one, or give this one a database of its own"
            ) from None
        except OSError:  # a file system without locks
            yield
            return
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} at {address}".encode(), 0)
        yield
    finally:
        os.close(descriptor)
