"""The number of seeds needed to show a difference: a range, because few pairs give an uncertain spread."""

from __future__ import annotations

import math

from core.protocol.comparisons import SeedsNeeded

POWER = 0.8
MIN_PAIRS = 4
"""With fewer pairs the 95 % interval of the sd spans more than a factor of twelve, so no range is given."""
MAX_PAIRS = 1000
_SIGNIFICANCE = 0.05
# With 5 pairs, the smallest possible sign-flip p is 0.0625.
_MIN_SEEDS = 6


def sd_interval(sd: float, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a standard deviation, by χ² with n − 1 degrees of freedom, for normal values."""
    from scipy.special import chdtri

    df = n - 1
    low = sd * math.sqrt(df / chdtri(df, _SIGNIFICANCE / 2))
    high = sd * math.sqrt(df / chdtri(df, 1 - _SIGNIFICANCE / 2))
    return float(low), float(high)


def power_of(n: int, effect: float) -> float:
    """Return the power of a two-sided paired t test at 5 %, for a difference of ``effect`` sd, by noncentral t."""
    from scipy.special import nctdtr, stdtrit

    df = n - 1
    critical = stdtrit(df, 1 - _SIGNIFICANCE / 2)
    shift = effect * math.sqrt(n)
    # Far above the critical value the lower tail of the noncentral t is 0, for which scipy may return NaN.
    below = nctdtr(df, shift, critical)
    lower_tail = nctdtr(df, shift, -critical)
    return float(1 - (0.0 if math.isnan(below) else below) + (0.0 if math.isnan(lower_tail) else lower_tail))


def seeds_for(difference: float, sd: float) -> int | None:
    """Return the fewest pairs that show ``difference`` with 80 % power: at least 6; None above 1,000."""
    effect = abs(difference) / sd
    if power_of(MAX_PAIRS, effect) < POWER:
        return None
    low, high = _MIN_SEEDS, MAX_PAIRS
    while low < high:
        middle = (low + high) // 2
        if power_of(middle, effect) >= POWER:
            high = middle
        else:
            low = middle + 1
    return low


def seeds_needed(difference: float, sd: float | None, n: int) -> SeedsNeeded | None:
    """Return the range of seeds that would show a difference.

    Args:
        difference: Difference in the metric's unit.
        sd: Standard deviation of the differences of n pairs.
        n: Number of pairs.

    Returns:
        None below 4 pairs, without spread, and for a difference of 0.
    """
    if n < MIN_PAIRS or not sd or difference == 0:
        return None
    sd_low, sd_high = sd_interval(sd, n)
    seeds_low = seeds_for(difference, sd_low)
    return SeedsNeeded(
        difference=abs(difference),
        power=POWER,
        low=MAX_PAIRS if seeds_low is None else seeds_low,
        high=seeds_for(difference, sd_high),
        sd_low=sd_low,
        sd_high=sd_high,
    )
