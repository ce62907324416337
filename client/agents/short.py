"""Bounds of a tool's answer: a program reads it into a context of limited size."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import islice
from typing import Any, TypeVar

from common.terminal import printable

MOST_ITEMS = 30
MOST_ROWS = 20
"""Methods of a comparison, and rows of a table."""
MOST_CELLS = 12
"""Methods in a row of a table."""
MOST_NAMES = 60
"""Entries in a list of the catalog, which has one short line for each."""
MOST_NOTES = 12
MOST_TEXT = 400
MOST_JSON = 24_000
"""Characters of a catalog entry as JSON."""

_Item = TypeVar("_Item")


def text(value: str, limit: int = MOST_TEXT) -> str:
    """Return a text on one line, with control characters escaped, and cut to ``limit`` characters."""
    line = printable(" ".join(value.split()), lines=False)
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def texts(values: Iterable[str], limit: int = MOST_NOTES) -> list[str]:
    """Return the first texts, shortened, without repetitions."""
    return list(islice(dict.fromkeys(text(value) for value in values), limit))


def first(items: Iterable[_Item], limit: int = MOST_ITEMS) -> tuple[list[_Item], int]:
    """Return the first items, and the number of those left out."""
    every = list(items)
    return every[:limit], max(0, len(every) - limit)


def number(value: float | None, digits: int = 6) -> float | None:
    """Return a number with at most ``digits`` significant digits."""
    return None if value is None else float(f"{value:.{digits}g}")


def fits(value: Any, limit: int = MOST_JSON) -> bool:
    """Return whether a value, as JSON, has at most ``limit`` characters."""
    return len(json.dumps(value)) <= limit
