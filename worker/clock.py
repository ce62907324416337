"""The clock that leases are counted by."""

from __future__ import annotations

import sys
import time


def now() -> float:
    """Seconds that have passed, those in which the machine slept included: a lease runs out meanwhile."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()
