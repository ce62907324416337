"""The number of seeds that a difference would take: a range, because few pairs give an uncertain spread."""

from __future__ import annotations

import math

from core.protocol.comparisons import SeedsNeeded

POWER = 0.8
LEAST_PAIRS = 4
"""With fewer pairs the 95 % interval of the sd spans more than a factor of twelve, so no range is given."""
MOST = 1000
_SIGNIFICANCE = 0.05
# 5 pairs cannot give a sign-flip p below 0.0625, whatever their differences.
_LEAST_SEEDS = 6


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
    far_side = nctdtr(df, shift, -critical)
    return float(1 - (0.0 if math.isnan(below) else below) + (0.0 if math.isnan(far_side) else far_side))


def seeds_for(difference: float, sd: float) -> int | None:
    """Return the fewest pairs that show ``difference`` with 80 % power: at least 6; None above 1,000."""
    effect = abs(difference) / sd
    if power_of(MOST, effect) < POWER:
        return None
    low, high = _LEAST_SEEDS, MOST
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
        difference: in the metric's unit.
        sd: standard deviation of the differences of n pairs.
        n: number of pairs.

    Returns:
        None below 4 pairs, without spread, and for a difference of 0.
    """
    if n < LEAST_PAIRS or not sd or difference == 0:
        return None
    least, greatest = sd_interval(sd, n)
    few = seeds_for(difference, least)
    return SeedsNeeded(
        difference=abs(difference),
        power=POWER,
        low=MOST if few is None else few,
        high=seeds_for(difference, greatest),
        sd_low=least,
        sd_high=greatest,
    )
