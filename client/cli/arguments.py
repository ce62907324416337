"""Command-line arguments in a locale whose encoding is not UTF-8: names are UTF-8 text, paths are the typed bytes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path


def as_text(arguments: Sequence[str]) -> list[str]:
    """Decode the arguments as UTF-8; one that is not valid UTF-8 stays as the locale decodes it."""
    return [*arguments] if _is_utf8() else [_as_text(argument) for argument in arguments]


def path_of(text: str | Path) -> Path:
    """Return the path that an argument decoded by ``as_text`` names."""
    if _is_utf8():
        return Path(text)
    as_utf8 = Path(os.fsdecode(str(text).encode("utf-8", "surrogateescape")))
    try:
        in_locale = Path(os.fsdecode(os.fsencode(text)))
    except UnicodeEncodeError:  # the locale lacks one of its characters, so UTF-8 was typed
        return as_utf8
    return in_locale if in_locale.exists() and not as_utf8.exists() else as_utf8


def _as_text(argument: str) -> str:
    try:
        return os.fsencode(argument).decode("utf-8")
    except UnicodeDecodeError:
        return argument


def _is_utf8() -> bool:
    return sys.getfilesystemencoding().lower().replace("-", "") == "utf8"
