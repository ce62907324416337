"""Numbers as text: one way for the command line, the dashboard, the exports and the sentences. Free of torch.

The digits follow what they have to show: two significant digits of the interval's width, or of the spread, and at least
two decimals; a number that is not zero is never shown as zero. Numbers that would need more than six decimals are
written with an exponent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Protocol

NOTHING = "–"
LEAST_DECIMALS = 2
MOST_DECIMALS = 6
SIGNIFICANCE = 0.05
"""A p is never rounded across this: 0.0499 and 0.0501 are shown with the digits that tell them apart."""


class Bounds(Protocol):
    """An interval."""

    @property
    def low(self) -> float: ...

    @property
    def high(self) -> float: ...


def decimals_for(scale: float) -> int:
    """Decimals that show two significant digits of ``scale``, at least two; ``scale`` 0 or not finite asks for two."""
    if not 0 < abs(scale) < math.inf:
        return LEAST_DECIMALS
    return max(LEAST_DECIMALS, 1 - math.floor(math.log10(abs(scale))))


def value_text(value: float | None, unit: str = "", decimals: int | None = None) -> str:
    """A number with its unit, as "93.20 %"; a dash for None, words for NaN and infinities.

    Args:
        decimals: None for as many as show four significant digits.
    """
    if value is None:
        return NOTHING
    if not math.isfinite(value):
        return _odd(value)
    shown = _fixed(value, decimals_for(value / 100) if decimals is None else decimals)
    return f"{shown} {unit}" if unit else shown


def spread_text(sd: float | None, unit: str = "") -> str:
    """A spread, or another number of which two significant digits are enough."""
    return NOTHING if sd is None else value_text(sd, unit, decimals_for(sd))


def signed(value: float, unit: str = "", decimals: int | None = None) -> str:
    """As "+0.52 percentage points", with a typographic minus; zero has no sign."""
    if not math.isfinite(value):
        return _odd(value)
    decimals = decimals_for(value) if decimals is None else decimals
    shown = _fixed(value, decimals)
    text = f"+{shown}" if value > 0 and not _is_zero(value, decimals) else shown
    return f"{text} {unit}" if unit else text


def mean_text(mean: float | None, sd: float | None = None) -> str:
    """Mean ± sample standard deviation as "93.20 ± 1.06"; the mean alone of a single value, a dash without any."""
    if mean is None:
        return NOTHING
    if not math.isfinite(mean):
        return _odd(mean)
    scale = sd if sd else abs(mean) / 100  # a mean without spread: four significant digits
    decimals = decimals_for(scale)
    return _fixed(mean, decimals) if sd is None else f"{_fixed(mean, decimals)} ± {_fixed(sd, decimals)}"


def difference_text(difference: float | None, interval: Bounds | None = None, unit: str = "") -> str:
    """A difference with its interval where it has one, as "+0.0033 [+0.0024, +0.0043]"."""
    if difference is None:
        return NOTHING
    shown = point_text(difference, interval)
    if interval is not None:
        shown += f" {interval_text(interval, difference)}"
    return f"{shown} {unit}" if unit else shown


def point_text(difference: float | None, interval: Bounds | None = None) -> str:
    """The difference alone, with the digits that its interval asks for."""
    return NOTHING if difference is None else signed(difference, decimals=_decimals(interval, difference))


def interval_text(interval: Bounds | None, centre: float | None = None, *, signs: bool = True) -> str:
    """As "[−0.35, +2.89]"; a dash for None.

    Args:
        centre: the number that it is of, which is shown with the same digits.
        signs: of a difference; without them a positive bound has none.
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
    """An interval in a sentence, as "+0.30 to +2.70 percentage points"."""
    decimals = _decimals(interval, centre)
    return f"{signed(interval.low, decimals=decimals)} to {signed(interval.high, unit, decimals)}"


def p_text(p: float | None, digits: int = 2) -> str:
    """A p value with so many significant digits, more where these would put it on the other side of 0.05."""
    if p is None:
        return NOTHING
    if not math.isfinite(p):
        return _odd(p)
    for most in range(digits, 8):
        shown = f"{p:.{most}g}"
        if (float(shown) < SIGNIFICANCE) == (p < SIGNIFICANCE) and (float(shown) == SIGNIFICANCE) <= (
            p == SIGNIFICANCE
        ):
            return shown
    return f"{p:.8g}"


def title_with_count(title: str, values: Iterable[float | None]) -> str:
    """The title of a metric that is a mean over a part of the test images, with how many these are.

    Args:
        values: what counts them, of every run that the metric is shown of; None for a run that did not record it.
    """
    known = list(values)
    counts = sorted({int(value) for value in known if value is not None})
    parts = []
    if counts:
        span = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
        parts.append(f"of {span} image{'' if counts == [1] else 's'}")
    if not counts or None in known:
        parts.append(f"{'of some runs ' if counts else ''}number of images not recorded")
    return f"{title} ({'; '.join(parts)})"


def _decimals(interval: Bounds | None, centre: float | None) -> int:
    """Of an interval and the number it is of, together."""
    shown = [] if centre is None else [centre]
    if interval is not None:
        shown += [interval.low, interval.high]
    finite = [value for value in shown if math.isfinite(value)]
    if interval is not None and math.isfinite(interval.high - interval.low):
        decimals = decimals_for(interval.high - interval.low)
    else:
        decimals = decimals_for(centre or 0.0)
    # A bound that is not zero must not be shown as zero, or "excludes zero" would look wrong.
    while decimals <= MOST_DECIMALS and any(value and _is_zero(value, decimals) for value in finite):
        decimals += 1
    return decimals


def _is_zero(value: float, decimals: int) -> bool:
    return value == 0 or (decimals <= MOST_DECIMALS and round(abs(value), decimals) == 0)


def _fixed(value: float, decimals: int) -> str:
    """With so many decimals, or with two significant digits and an exponent where these are too many to read."""
    if decimals > MOST_DECIMALS and value != 0:
        text = f"{value:.1e}"
    else:
        text = f"{value:.{min(decimals, MOST_DECIMALS)}f}"
        if float(text) == 0:
            text = text.removeprefix("-")
    return text.replace("-", "−")


def _odd(value: float) -> str:
    if math.isnan(value):
        return "not a number"
    return "infinite" if value > 0 else "−infinite"
