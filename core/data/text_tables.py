"""Text files beside the images, whatever bytes the names in them are of."""

from __future__ import annotations

from pathlib import Path

from core.data.errors import DatasetError
from core.undecodable import visible

_MOST_BYTES = 64 * 2**20


def read_lines(path: Path) -> list[str]:
    """Its lines without what ends them; names in them that are no UTF-8 are as Python holds file names.

    Raises DatasetError if it is no regular file or larger than any table of a data set.
    """
    if not path.is_file() or path.stat().st_size > _MOST_BYTES:
        raise DatasetError(f"{visible(str(path))} is no table of a data set: no regular file, or above 64 MiB")
    return path.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
