"""Texts from outside, made fit for the database: PostgreSQL holds no NUL, and UTF-8 has no lone surrogates."""

from __future__ import annotations

import re
from typing import Any

_UNFIT = re.compile("[\0\ud800-\udfff]")


def clean(text: str) -> str:
    """The text with what cannot be stored replaced by U+FFFD."""
    return _UNFIT.sub("�", text)


def first_unfit(value: Any, path: str = "") -> str | None:
    """Path of the first text in JSON data that cannot be stored; None where all can."""
    if isinstance(value, str):
        return path if _UNFIT.search(value) else None
    if isinstance(value, dict):
        for key, item in value.items():
            inner = f"{path}.{key}" if path else str(key)
            found = path if _UNFIT.search(str(key)) else first_unfit(item, inner)
            if found is not None:
                return found
    if isinstance(value, list):
        for index, item in enumerate(value):
            found = first_unfit(item, f"{path}.{index}" if path else str(index))
            if found is not None:
                return found
    return None
