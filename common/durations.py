"""Durations and ages as text: the same in the command line and in the dashboard."""

from __future__ import annotations

import math
from datetime import datetime

from common.formatting import NOTHING

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


def duration_text(seconds: float | None) -> str:
    """Return a duration as "42 s", "3 min 05 s", "2 h 10 min" or "4 d 03 h"; a dash if it is not known.

    A duration that rounds to no second is shown in hundredths, because it is not nothing.
    """
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return NOTHING
    rounded = round(seconds)
    if seconds and not rounded:
        return f"{seconds:.2f} s" if seconds >= 0.01 else "< 0.01 s"
    if rounded < _MINUTE:
        return f"{rounded} s"
    if rounded < _HOUR:
        return f"{rounded // _MINUTE} min {rounded % _MINUTE:02d} s"
    if rounded < _DAY:
        return f"{rounded // _HOUR} h {rounded % _HOUR // _MINUTE:02d} min"
    return f"{rounded // _DAY} d {rounded % _DAY // _HOUR:02d} h"


def age_text(time: datetime, now: datetime) -> str:
    """Return how long ago a time was, as "just now", "12 s ago", "3 min ago", "2 h ago" or "4 d ago".

    The two clocks may differ a little: a time in the future is "just now".
    """
    seconds = (now - time).total_seconds()
    if seconds < 5:
        return "just now"
    if seconds < 2 * _MINUTE:
        return f"{seconds:.0f} s ago"
    if seconds < 2 * _HOUR:
        return f"{seconds / _MINUTE:.0f} min ago"
    return f"{seconds / _HOUR:.0f} h ago" if seconds < 2 * _DAY else f"{seconds / _DAY:.0f} d ago"
