"""Paths that a spec may name, as far as that can be known before a worker looks."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

_BYTE = re.compile(r"\\x[89a-f][0-9a-f]")
"""How a byte of a file name is written that is no UTF-8."""


def relative_data_path(path: str) -> str:
    """A path relative to a worker's ``DATA_DIR``, in its shortest form.

    Whoever may submit a spec must not thereby read what else lies on a worker. Where links lead is seen only there, by
    ``core.data.paths.spec_path``.

    Raises ValueError for an absolute path and one with ``..`` in it.
    """
    parts = PurePosixPath(path).parts
    if path.startswith(("/", "~")) or ".." in parts or "\\" in _BYTE.sub("", path) or "\0" in path or not parts:
        raise ValueError("must be a relative path below DATA_DIR, without '..'")
    return "/".join(parts)
