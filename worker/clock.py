"""The clock that measures leases."""

from __future__ import annotations

import sys
import time


def now() -> float:
    """Return monotonic seconds. They include suspended time on Linux, since leases also expire during a suspension."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()
