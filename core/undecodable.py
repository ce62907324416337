r"""File names that are no UTF-8, as text that every encoding, terminal and JSON parser takes. Free of torch.

Python holds a byte of a file name that is no UTF-8 as a lone surrogate, which opens the file again and which no strict
encoder writes. Such a name is kept as it is where a file is opened, and made visible where it becomes a text.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

_LONE = re.compile("[\ud800-\udfff]")


def visible(text: str) -> str:
    r"""The text with each undecodable byte spelled out, as ``caf\xe9``; any other lone surrogate as ``\ud800``."""
    return text if text.isascii() else _LONE.sub(_spelled, text)


@contextlib.contextmanager
def openable(path: Path) -> Iterator[str]:
    """A path of the same file for a library that wants UTF-8, as safetensors does; valid within the context.

    Raises OSError if the file cannot be opened.
    """
    name = str(path)
    if visible(name) == name:
        yield name
        return
    with path.open("rb") as file:
        yield f"/dev/fd/{file.fileno()}"


def _spelled(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"
