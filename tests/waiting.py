"""Wait until another process or thread has done something."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import pytest

T = TypeVar("T")


def until(condition: Callable[[], T | None], what: str = "", seconds: float = 120) -> T:
    """Return the first true value that ``condition`` returns; fail the test with ``what`` after so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.02)
    pytest.fail(f"{what or condition} did not come within {seconds:g} s")
