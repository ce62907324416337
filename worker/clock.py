"""The clock that measures leases."""

from __future__ import annotations

import sys
import time


def now() -> float:
    """Return monotonic seconds that include the time the machine was suspended: leases run out meanwhile."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()
