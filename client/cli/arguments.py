"""Arguments where the locale's encoding is not UTF-8: names are UTF-8 text, paths are the bytes that were typed."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path


def as_text(arguments: Sequence[str]) -> list[str]:
    """The arguments as UTF-8 reads them; one that is not UTF-8 as the locale reads it."""
    return [*arguments] if _is_utf8() else [_as_text(argument) for argument in arguments]


def path_of(text: str | Path) -> Path:
    """The file that an argument of ``as_text`` names."""
    if _is_utf8():
        return Path(text)
    typed = Path(os.fsdecode(str(text).encode("utf-8", "surrogateescape")))
    try:
        read = Path(os.fsdecode(os.fsencode(text)))
    except UnicodeEncodeError:  # it has a character that the locale does not have, so UTF-8 was typed
        return typed
    return read if read.exists() and not typed.exists() else typed


def _as_text(argument: str) -> str:
    try:
        return os.fsencode(argument).decode("utf-8")
    except UnicodeDecodeError:
        return argument


def _is_utf8() -> bool:
    return sys.getfilesystemencoding().lower().replace("-", "") == "utf8"
