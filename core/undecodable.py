r"""File names that are not UTF-8, as text that every encoding, terminal and JSON parser accepts. Free of torch.

Python holds a byte of a file name that is not UTF-8 as a lone surrogate. It opens the file, but no strict encoder
writes it. Such a name is used unchanged to open a file, and is made visible when it becomes part of a text.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def visible(text: str) -> str:
    r"""Return the text with each undecodable byte escaped, as ``caf\xe9``; any other lone surrogate as ``\ud800``."""
    return text if text.isascii() else _LONE_SURROGATE.sub(_escape, text)


@contextlib.contextmanager
def openable(path: Path) -> Iterator[str]:
    """Give a file a path in UTF-8, for a library that requires it, as safetensors does.

    Args:
        path: The file.

    Yields:
        A path of the same file, valid within the block.

    Raises:
        OSError: The file cannot be opened.
    """
    name = str(path)
    if visible(name) == name:
        yield name
        return
    with path.open("rb") as file:
        yield f"/dev/fd/{file.fileno()}"


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"
