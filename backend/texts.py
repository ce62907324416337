"""Texts from outside, made fit for the database: PostgreSQL holds no NUL, and UTF-8 has no lone surrogates."""

from __future__ import annotations

import re

_UNFIT = re.compile("[\0\ud800-\udfff]")


def clean(text: str) -> str:
    """The text with what cannot be stored replaced by U+FFFD."""
    return _UNFIT.sub("�", text)
