"""Text files that come with a data set, in any encoding."""

from __future__ import annotations

from pathlib import Path

from core.tasks.classification.data.errors import DatasetError
from core.undecodable import visible

_MAX_BYTES = 64 * 2**20


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file without line endings; bytes that are not UTF-8 become surrogate escapes.

    Raises:
        DatasetError: the path is not a regular file, or it is larger than 64 MiB.
    """
    if not path.is_file() or path.stat().st_size > _MAX_BYTES:
        raise DatasetError(
            f"{visible(str(path))} is not a table of a data set: it is not a regular file, or larger than 64 MiB"
        )
    return path.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
