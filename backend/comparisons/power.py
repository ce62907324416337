"""How many more seeds a difference would take: a range, since few pairs know their own spread poorly."""

from __future__ import annotations

import math

from core.protocol.comparisons import SeedsNeeded

POWER = 0.8
LEAST_PAIRS = 4
"""Below this the 95 % interval of the sd spans more than a factor of twelve, and nothing is said."""
MOST = 1000
_SIGNIFICANCE = 0.05
# 5 pairs cannot give a sign-flip p below 0.0625, whatever they show.
_LEAST_SEEDS = 6


def sd_interval(sd: float, n: int) -> tuple[float, float]:
    """95 % interval of a standard deviation, by χ² with n − 1 degrees of freedom; for normally distributed values."""
    from scipy.special import chdtri

    df = n - 1
    low = sd * math.sqrt(df / chdtri(df, _SIGNIFICANCE / 2))
    high = sd * math.sqrt(df / chdtri(df, 1 - _SIGNIFICANCE / 2))
    return float(low), float(high)


def power_of(n: int, effect: float) -> float:
    """Chance that a two-sided paired t test at 5 % sees a difference of ``effect`` sd in n pairs (noncentral t)."""
    from scipy.special import nctdtr, stdtrit

    df = n - 1
    critical = stdtrit(df, 1 - _SIGNIFICANCE / 2)
    shift = effect * math.sqrt(n)
    # Far above the critical value the noncentral t's lower tail is 0, which the library may give as NaN.
    below = nctdtr(df, shift, critical)
    far_side = nctdtr(df, shift, -critical)
    return float(1 - (0.0 if math.isnan(below) else below) + (0.0 if math.isnan(far_side) else far_side))


def seeds_for(difference: float, sd: float) -> int | None:
    """The fewest pairs that show ``difference`` with 80 % power; at least 6, and None above 1,000."""
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
    """The range of seeds that n pairs with this sd of their differences allow to name.

    None below 4 pairs, without spread, and for no difference.
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
