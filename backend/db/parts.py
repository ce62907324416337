"""Long lists of keys, in pieces that fit into a statement each."""

from __future__ import annotations

from collections.abc import Iterable

_AT_ONCE = 10_000  # SQLite takes at most 32,766 values in one statement


def parts(keys: Iterable[str]) -> list[list[str]]:
    """The keys in lists of at most 10,000."""
    every = list(keys)
    return [every[start : start + _AT_ONCE] for start in range(0, len(every), _AT_ONCE)]
