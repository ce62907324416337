"""Rules for paths in specs, as far as they can be checked without the worker's files."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

_BYTE = re.compile(r"\\x[89a-f][0-9a-f]")
"""Escape for a byte of a file name that is not UTF-8."""


def relative_data_path(path: str) -> str:
    """Return a path relative to a worker's ``DATA_DIR`` in its shortest form.

    A spec must not give access to other files of a worker. The targets of symbolic links are checked by the worker, in
    ``core.tasks.classification.data.paths.spec_path``.

    Raises:
        ValueError: The path is absolute or contains ``..``.
    """
    parts = PurePosixPath(path).parts
    if path.startswith(("/", "~")) or ".." in parts or "\\" in _BYTE.sub("", path) or "\0" in path or not parts:
        raise ValueError("must be a relative path below DATA_DIR, without '..'")
    return "/".join(parts)
