"""Atomic writes: a file appears with its complete content or not at all.

The content is written to a temporary file in the same folder, which is then renamed: a reader of the path finds the
old content or the new one, never a part of it, also after a crash.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(
    path: Path, *, temporary: Path | None = None, private: bool = False, sync: bool = False, replace: bool = True
) -> Iterator[Path]:
    """Yield the path of a temporary file, which is renamed to ``path`` when the block ends without an error.

    If the block raises, or the file cannot be moved into place, the temporary file is removed, and ``path`` stays as
    it was.

    Args:
        path: The file to write. Its folder must exist.
        temporary: The temporary file, which must be on the same file system. By default a hidden file beside ``path``
            with a random name, so that several processes may write at the same time. A fixed name is overwritten by
            the next write if a process is killed.
        private: Create the temporary file first, with mode 0600 whatever the umask. Otherwise the block creates it.
        sync: Flush the file and its folder to the disk, so that the new content survives a power cut.
        replace: Replace an existing file. If False, the file is linked into place, and an existing one is kept: of two
            processes that write at the same time, both find the content of the first.

    Yields:
        The path of the temporary file.

    Raises:
        FileExistsError: ``replace`` is False and the file exists.
        OSError: The file cannot be written or moved.
    """
    # A name may be as long as the file system allows, so only its beginning is part of the temporary name.
    partial = temporary or path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.partial")
    try:
        if private:
            partial.unlink(missing_ok=True)  # left by a process that was killed, perhaps with another mode
            os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        yield partial
        if sync:
            sync_file(partial)
        if replace:
            os.replace(partial, path)
        else:
            os.link(partial, path)
        if sync:
            sync_folder(path.parent)
    finally:
        # The temporary file still exists after an error (a full disk needs the space), after a link, and after a rename
        # between two names of the same file, which keeps both names.
        partial.unlink(missing_ok=True)


def atomic_write(
    path: Path, content: str | bytes, *, temporary: Path | None = None, private: bool = False, sync: bool = False
) -> None:
    """Replace a file's content in one step; text is written as UTF-8. See ``atomic_path`` for the arguments."""
    with atomic_path(path, temporary=temporary, private=private, sync=sync) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def sync_file(path: Path) -> None:
    """Flush a file's content to the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Flush a folder to the disk: only then do the new names in it survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
