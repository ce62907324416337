"""Split long lists of keys into chunks that each fit into one statement."""

from __future__ import annotations

from collections.abc import Iterable

_AT_ONCE = 10_000  # SQLite takes at most 32,766 values in one statement


def chunked(keys: Iterable[str]) -> list[list[str]]:
    """Split keys into lists of at most 10,000."""
    every = list(keys)
    return [every[start : start + _AT_ONCE] for start in range(0, len(every), _AT_ONCE)]
