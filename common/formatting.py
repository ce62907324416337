"""Numbers, intervals and p values as text: the same in the command line, the dashboard, the exports and sentences.

The number of decimals follows the data: two significant digits of the interval's width, or of the standard deviation,
and at least two decimals. A number that is not zero is never shown as zero. A number that would need more than six
decimals is written with an exponent. Durations are in ``common.durations``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Protocol

NOTHING = "–"
MIN_DECIMALS = 2
MAX_DECIMALS = 6
SIGNIFICANCE = 0.05
"""A p value is never rounded across this level: 0.0499 and 0.0501 are shown with the digits that distinguish them."""


class Bounds(Protocol):
    """The two ends of an interval."""

    @property
    def low(self) -> float: ...

    @property
    def high(self) -> float: ...


class Reached(Protocol):
    """Counts of the runs that reached a target accuracy, and their epochs."""

    @property
    def median_epochs(self) -> float | None: ...

    @property
    def max_epochs(self) -> int: ...

    @property
    def reached(self) -> int: ...

    @property
    def of(self) -> int: ...


def decimals_for(scale: float) -> int:
    """Return the decimals that show two significant digits of ``scale``: at least two, also for 0 and infinities."""
    if not 0 < abs(scale) < math.inf:
        return MIN_DECIMALS
    return max(MIN_DECIMALS, 1 - math.floor(math.log10(abs(scale))))


def value_text(value: float | None, unit: str = "", decimals: int | None = None) -> str:
    """Return a number with its unit, as "93.20 %"; a dash for None, words for NaN and infinities.

    Args:
        value: The number.
        unit: Its unit; empty for a pure number.
        decimals: Number of decimals; by default two for a percentage, so that those of a column have the same, and for
            other numbers as many as show four significant digits.
    """
    if value is None:
        return NOTHING
    if not math.isfinite(value):
        return _nonfinite_text(value)
    if decimals is None:
        decimals = (decimals_for(value) if _is_zero(value, 2) else 2) if unit == "%" else decimals_for(value / 100)
    shown = _fixed(value, decimals)
    return f"{shown} {unit}" if unit else shown


def within_sentence(title: str) -> str:
    """Return a title for the middle of a sentence, as "test accuracy"; a title such as "AP" stays as it is."""
    return title if title[1:2].isupper() else title[:1].lower() + title[1:]


def share_text(share: float) -> str:
    """Return a share from 0 to 1 as a whole percentage, as "42 %"."""
    return f"{100 * share:.0f} %"


def count_text(number: int, noun: str) -> str:
    """Return a number of things, as "1 run" or "3,000 runs"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def size_text(size: float) -> str:
    """Return a number of bytes, as "812 kB" or "1.4 GB"; units are powers of 1,000."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            amount = size / factor
            return f"{amount:.1f} {unit}" if amount < 10 else f"{amount:.0f} {unit}"
    return f"{size:.0f} B"


def memory_text(used: float, total: float) -> str:
    """Return how much of a GPU's memory is used, as "3.1 of 139.8 GiB"."""
    return f"{used / 2**30:.1f} of {total / 2**30:.1f} GiB"


def spread_text(sd: float | None, unit: str = "") -> str:
    """Return a standard deviation, or a similar number, with two significant digits."""
    return NOTHING if sd is None else value_text(sd, unit, decimals_for(sd))


def signed(value: float, unit: str = "", decimals: int | None = None) -> str:
    """Return a number with its sign, as "+0.52 percentage points"; the minus is typographic, and zero has no sign."""
    if not math.isfinite(value):
        return _nonfinite_text(value)
    decimals = decimals_for(value) if decimals is None else decimals
    shown = _fixed(value, decimals)
    text = f"+{shown}" if value > 0 and not _is_zero(value, decimals) else shown
    return f"{text} {unit}" if unit else text


def mean_text(mean: float | None, sd: float | None = None) -> str:
    """Return mean ± sample standard deviation, as "93.20 ± 1.06"; the mean alone for one value, a dash for none."""
    if mean is None:
        return NOTHING
    if not math.isfinite(mean):
        return _nonfinite_text(mean)
    scale = sd if sd else abs(mean) / 100  # a mean without spread: four significant digits
    decimals = decimals_for(scale)
    return _fixed(mean, decimals) if sd is None else f"{_fixed(mean, decimals)} ± {_fixed(sd, decimals)}"


def difference_text(difference: float | None, interval: Bounds | None = None, unit: str = "") -> str:
    """Return a difference with its interval, if it has one, as "+0.0033 [+0.0024, +0.0043]"."""
    if difference is None:
        return NOTHING
    shown = point_text(difference, interval)
    if interval is not None:
        shown += f" {interval_text(interval, difference)}"
    return f"{shown} {unit}" if unit else shown


def point_text(difference: float | None, interval: Bounds | None = None) -> str:
    """Return a difference without its interval, with the decimals that the interval needs."""
    return NOTHING if difference is None else signed(difference, decimals=_decimals(interval, difference))


def interval_text(interval: Bounds | None, centre: float | None = None, *, signs: bool = True) -> str:
    """Return an interval, as "[−0.35, +2.89]"; a dash for None.

    Args:
        interval: The interval.
        centre: The estimate that the interval belongs to, which is shown with the same decimals.
        signs: Write a plus before positive ends, as for a difference.
    """
    if interval is None:
        return NOTHING
    decimals = _decimals(interval, centre)
    bounds = (interval.low, interval.high)
    low, high = (
        signed(bound, decimals=decimals) if signs else value_text(bound, decimals=decimals) for bound in bounds
    )
    return f"[{low}, {high}]"


def span_text(interval: Bounds, unit: str = "", centre: float | None = None) -> str:
    """Return an interval for a sentence, as "+0.30 to +2.70 percentage points"."""
    decimals = _decimals(interval, centre)
    return f"{signed(interval.low, decimals=decimals)} to {signed(interval.high, unit, decimals)}"


def p_text(p: float | None, digits: int = 2) -> str:
    """Return a p value with ``digits`` significant digits, or more if these would move it across 0.05."""
    if p is None:
        return NOTHING
    if not math.isfinite(p):
        return _nonfinite_text(p)
    for significant in range(digits, 8):
        shown = f"{p:.{significant}g}"
        if (float(shown) < SIGNIFICANCE) == (p < SIGNIFICANCE) and (float(shown) == SIGNIFICANCE) <= (
            p == SIGNIFICANCE
        ):
            return shown
    return f"{p:.8g}"


def title_with_count(title: str, values: Iterable[float | None], item: str = "image") -> str:
    """Return the title of a metric that is a mean over a part of the test images, with the number of these images.

    Args:
        title: The metric's title.
        values: The number of images of every run that the metric is shown for; None if a run did not record it.
        item: What the task calls an image.
    """
    recorded = list(values)
    counts = sorted({int(value) for value in recorded if value is not None})
    parts = []
    if counts:
        span = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
        parts.append(f"of {span} {item}{'' if counts == [1] else 's'}")
    if not counts or None in recorded:
        parts.append(f"{'of some runs ' if counts else ''}number of {item}s not recorded")
    return f"{title} ({'; '.join(parts)})"


def difference_unit(unit: str) -> str:
    """Return the unit of a difference: two percentages differ by percentage points, not by per cent."""
    return "percentage points" if unit == "%" else unit


def convergence_text(convergence: Reached | None) -> str:
    """Return the median epochs to a target, with how many runs reached it: "12 (3 of 3)", "> 30 (1 of 3)".

    A dash if no target is known, or no run counts.
    """
    if convergence is None or convergence.of == 0:
        return NOTHING
    return f"{median_epochs_text(convergence)} ({convergence.reached} of {convergence.of})"


def median_epochs_text(convergence: Reached | None) -> str:
    """Return the median epochs to a target alone: "12", or "> 30" if half of the runs or more did not reach it."""
    if convergence is None or convergence.of == 0:
        return NOTHING
    median = convergence.median_epochs
    return f"> {convergence.max_epochs}" if median is None or math.isinf(median) else f"{median:g}"


def target_text(target: float | None, share: float, unit: str = "%", *, absolute: bool) -> str:
    """Return the value that runs should reach: "75.00 %", or "90 % of the teacher" if it is a share of that.

    Args:
        target: The value.
        share: The share of the teacher's value.
        unit: The value's unit.
        absolute: The target was given as a value.
    """
    return value_text(target, unit, 2) if absolute else f"{100 * share:g} % of the teacher"


def _decimals(interval: Bounds | None, centre: float | None) -> int:
    """Return the decimals that an interval and its estimate share."""
    values = [] if centre is None else [centre]
    if interval is not None:
        values += [interval.low, interval.high]
    finite = [value for value in values if math.isfinite(value)]
    if interval is not None and math.isfinite(interval.high - interval.low):
        decimals = decimals_for(interval.high - interval.low)
    else:
        decimals = decimals_for(centre or 0.0)
    # An end that is not zero must not be shown as zero, or "excludes zero" would look wrong.
    while decimals <= MAX_DECIMALS and any(value and _is_zero(value, decimals) for value in finite):
        decimals += 1
    return decimals


def _is_zero(value: float, decimals: int) -> bool:
    return value == 0 or (decimals <= MAX_DECIMALS and round(abs(value), decimals) == 0)


def _fixed(value: float, decimals: int) -> str:
    """Return a number with fixed decimals, or with two significant digits and an exponent if these are too many."""
    if decimals > MAX_DECIMALS and value != 0:
        text = f"{value:.1e}"
    else:
        text = f"{value:.{min(decimals, MAX_DECIMALS)}f}"
        if float(text) == 0:
            text = text.removeprefix("-")
    return text.replace("-", "−")


def _nonfinite_text(value: float) -> str:
    if math.isnan(value):
        return "not a number"
    return "infinite" if value > 0 else "−infinite"
