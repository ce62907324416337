"""Waiting for what another process or thread is about to do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest


def until(true: Callable[[], Any], what: str = "", seconds: float = 120) -> Any:
    """What ``true`` returns once it is true; fails the test with ``what`` when the time is up."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := true():
            return found
        time.sleep(0.02)
    pytest.fail(f"{what or true} did not come within {seconds:g} s")
