"""Splits long lists of keys into chunks that each fit into one statement."""

from __future__ import annotations

from collections.abc import Iterable

_CHUNK_SIZE = 10_000  # SQLite accepts at most 32,766 values in one statement


def chunked(keys: Iterable[str]) -> list[list[str]]:
    """Return the keys in lists of at most 10,000."""
    all_keys = list(keys)
    return [all_keys[start : start + _CHUNK_SIZE] for start in range(0, len(all_keys), _CHUNK_SIZE)]
