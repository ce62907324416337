"""Ranges of whole numbers: ``0..4``, or ``{from: 0, to: 4}``. Both ends are included."""

from __future__ import annotations

import re
from typing import Any

MAX_LENGTH = 10_000

_TEXT = re.compile(r"\s*(-?\d{1,19})\s*\.\.\s*(-?\d{1,19})\s*", re.ASCII)


def is_range(value: Any) -> bool:
    """Return whether the value is written as a range."""
    if isinstance(value, str):
        return _TEXT.fullmatch(value) is not None
    return isinstance(value, dict) and {"from", "to"} <= value.keys() <= {"from", "to", "step"}


def expand(value: Any) -> Any:
    """Return the numbers of a range; any other value unchanged.

    Raises:
        ValueError: The range is not valid.
    """
    if not is_range(value):
        return value
    if isinstance(value, str):
        match = _TEXT.fullmatch(value)
        assert match is not None  # it is a range
        start, end, step = int(match[1]), int(match[2]), 1
    else:
        start, end, step = value["from"], value["to"], value.get("step", 1)
        if any(not isinstance(part, int) or isinstance(part, bool) for part in (start, end, step)):
            raise ValueError("from, to and step of a range are whole numbers")
    if step < 1:
        raise ValueError("the step of a range is at least 1")
    if end < start:
        raise ValueError(f"a range must not go down, as {start}..{end} does")
    count = (end - start) // step + 1  # len() of a range fails beyond 64 bits
    if count > MAX_LENGTH:
        raise ValueError(f"a range has at most {MAX_LENGTH} numbers; this one has {count}")
    return list(range(start, end + 1, step))
