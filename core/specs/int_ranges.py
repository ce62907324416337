"""Whole numbers as a range: ``0..4``, or ``{from: 0, to: 4}``; both ends are in it."""

from __future__ import annotations

import re
from typing import Any

MAX_LENGTH = 10_000

_TEXT = re.compile(r"\s*(-?\d{1,19})\s*\.\.\s*(-?\d{1,19})\s*", re.ASCII)


def is_range(value: Any) -> bool:
    """Whether the value is written as a range."""
    if isinstance(value, str):
        return _TEXT.fullmatch(value) is not None
    return isinstance(value, dict) and {"from", "to"} <= value.keys() <= {"from", "to", "step"}


def expand(value: Any) -> Any:
    """The numbers of a range; anything else as it is. Raises ValueError for a range that cannot be."""
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
        raise ValueError(f"a range goes upwards; {start}..{end} does not")
    count = (end - start) // step + 1  # which len() of a range cannot say beyond 64 bits
    if count > MAX_LENGTH:
        raise ValueError(f"a range has at most {MAX_LENGTH} numbers; this one has {count}")
    return list(range(start, end + 1, step))
