"""Statistics of few seeds: t intervals, the exact sign-flip test, Holm, Welch, epochs to a target. Pure functions.

Intervals are Student's t, never the bootstrap: at n = 3, 5, 8 the percentile bootstrap covers 0.75, 0.84, 0.88 where
0.95 is asked for. Everything is defined for any n; what cannot be computed is None, never a guess.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from core.protocol.comparisons import Interval

LEVEL = 0.95
EXACT_PAIRS = 20
"""Up to here all 2^(n−1) sign patterns are counted (half a million); above it they are drawn."""
_DRAWS = 99_999
_SEED = 20_220_316
# Sums of the same numbers in another order differ by rounding; such patterns are ties and must count as such.
_TIE = 1e-9

Better = Literal["higher", "lower"] | None


@dataclass(frozen=True)
class Summary:
    """A sample's mean and spread, in the sample's unit.

    Attributes:
        sd: sample standard deviation; None below n = 2.
        se: standard error of the mean, sd/√n.
        interval: 95 % t interval of the mean; None below n = 2 and where nothing varies, since a spread of exactly
            zero in a few values bounds nothing.
    """

    n: int
    mean: float | None = None
    sd: float | None = None
    se: float | None = None
    interval: Interval | None = None


@dataclass(frozen=True)
class PairedSummary:
    """Differences between pairs.

    Attributes:
        differences: their summary.
        sign_flip_p: two-sided; exact up to ``EXACT_PAIRS`` pairs, then by seeded random sign patterns. None for n = 0.
        smallest_p: the smallest that n pairs can give, 2^(1−n). None for n = 0.
        correlation: Pearson's, between the two sides; None below n = 3 or without variance.
    """

    differences: Summary
    sign_flip_p: float | None = None
    smallest_p: float | None = None
    correlation: float | None = None


def summarize(values: Sequence[float]) -> Summary:
    """Mean, standard deviation, standard error and 95 % t interval of finite numbers."""
    n = len(values)
    if n == 0:
        return Summary(n=0)
    mean = math.fsum(values) / n
    if n == 1:
        return Summary(n=1, mean=mean)
    sd = _sd(values, mean)
    se = sd / math.sqrt(n)
    interval = _around(mean, se, n - 1) if sd > 0 else None
    return Summary(n=n, mean=mean, sd=sd, se=se, interval=interval)


def paired(values: Sequence[float], baseline: Sequence[float]) -> PairedSummary:
    """Differences ``values[i] − baseline[i]``. Raises ValueError where the lengths differ."""
    differences = [value - other for value, other in zip(values, baseline, strict=True)]
    return PairedSummary(
        differences=summarize(differences),
        sign_flip_p=sign_flip_p(differences),
        smallest_p=smallest_p(len(differences)),
        correlation=correlation(values, baseline),
    )


def by_block(values: Mapping[tuple[str, int], float]) -> list[float]:
    """What may be taken as independent: the values of one block, or the mean of each of several.

    Args:
        values: by block (a teacher's fingerprint) and seed. Runs of one teacher share what that teacher happened to
            learn, so over several teachers a teacher is the unit, and its runs are averaged first.
    """
    blocks: dict[str, list[float]] = {}
    for (block, _), value in values.items():
        blocks.setdefault(block, []).append(value)
    if len(blocks) <= 1:
        return list(values.values())
    return [math.fsum(found) / len(found) for found in blocks.values()]


def smallest_p(n: int) -> float | None:
    """The smallest two-sided sign-flip p that n pairs can give: 2^(1−n)."""
    return 2.0 ** (1 - n) if n else None


def sign_flip_p(differences: Sequence[float]) -> float | None:
    """Two-sided p of the mean difference if each sign were a coin's: the share of patterns at least as extreme.

    Exact up to ``EXACT_PAIRS``. Above it, (k + 1)/(m + 1) over m = 99,999 random patterns from a fixed seed, which is
    a valid p and the same at every call.
    """
    n = len(differences)
    if n == 0:
        return None
    # Here and not above, since it is slow to import and the backend must be up at once.
    import numpy as np

    observed = abs(math.fsum(differences))
    threshold = observed - _TIE * math.fsum(map(abs, differences))
    if n <= EXACT_PAIRS:
        # |sum| is the same for a pattern and its mirror image, so the first sign stays fixed.
        sums = np.array([differences[0]], dtype=np.float64)
        for difference in differences[1:]:
            sums = np.concatenate((sums + difference, sums - difference))
        return float(np.mean(np.abs(sums) >= threshold))
    generator = np.random.default_rng(_SEED)
    sums = np.zeros(_DRAWS)
    for difference in differences:
        sums += difference * (2.0 * generator.integers(0, 2, _DRAWS) - 1.0)
    return float((np.count_nonzero(np.abs(sums) >= threshold) + 1) / (_DRAWS + 1))


def sign_test_p(earlier: int, later: int) -> float | None:
    """Two-sided exact p of a coin that falls ``earlier`` times one way and ``later`` the other; None for no throw."""
    n = earlier + later
    if n == 0:
        return None
    tail: float = sum(math.comb(n, k) for k in range(min(earlier, later) + 1)) / 2**n
    return min(1.0, 2 * tail)


def paired_t_p(differences: Sequence[float]) -> float | None:
    """Two-sided p of the paired t test, for normally distributed differences; None without spread or below n = 2."""
    found = summarize(differences)
    return None if found.mean is None else t_p(found.mean, found.sd, found.n)


def t_p(mean: float, sd: float | None, n: int, limit: float = 0.0) -> float | None:
    """Two-sided p of n normally distributed values with this mean and spread, if their true mean were ``limit``.

    None without spread or below n = 2.
    """
    if n < 2 or not sd:
        return None
    from scipy.special import stdtr

    return float(2 * stdtr(n - 1, -abs(mean - limit) / (sd / math.sqrt(n))))


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Adjusted p of each test, in the given order (Holm 1979); None, for no test, stays None and counts for nothing.

    Rejecting where the result is at most α keeps the chance of any false rejection among them below α.
    """
    order = sorted((p, index) for index, p in enumerate(ps) if p is not None)
    adjusted: list[float | None] = [None] * len(ps)
    running = 0.0
    for rank, (p, index) in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * p))
        adjusted[index] = running
    return adjusted


def correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Pearson's correlation; None below n = 3 or where a side does not vary."""
    if len(first) < 3:
        return None
    if min(first) == max(first) or min(second) == max(second):
        return None
    first_mean, second_mean = math.fsum(first) / len(first), math.fsum(second) / len(second)
    left, right = [value - first_mean for value in first], [value - second_mean for value in second]
    squares = _dot(left, left) * _dot(right, right)
    return min(1.0, max(-1.0, _dot(left, right) / math.sqrt(squares))) if squares > 0 else None


def welch_interval(values: Sequence[float], baseline: Sequence[float]) -> Interval | None:
    """95 % interval of the difference of the means, the samples taken as independent (Welch 1947).

    None where a side has fewer than two values or neither varies.
    """
    first, second = summarize(values), summarize(baseline)
    if first.mean is None or second.mean is None or first.se is None or second.se is None:
        return None
    variance = first.se**2 + second.se**2
    if variance == 0:
        return None
    df = variance**2 / (first.se**4 / (first.n - 1) + second.se**4 / (second.n - 1))
    return _around(first.mean - second.mean, math.sqrt(variance), df)


def epochs_to_target(epochs: Sequence[float], values: Sequence[float], target: float) -> float | None:
    """The first of two consecutive measurements at or above the target; None where there is no such pair.

    A single peak does not count, and so the last measurement counts only as the second of a pair. NaN is below
    every target.

    Args:
        epochs: when each value was measured, increasing.
        values: of the same length.
    """
    for index in range(len(values) - 1):
        if values[index] >= target and values[index + 1] >= target:
            return epochs[index]
    return None


def area_under(epochs: Sequence[float], values: Sequence[float]) -> float | None:
    """Mean of the curve between its first and its last measurement, by trapezoids, in the values' unit.

    None where a value is not finite, and for an empty curve.
    """
    if not values or not all(map(math.isfinite, values)):
        return None
    span = epochs[-1] - epochs[0]
    if span <= 0:
        return values[-1]
    parts = ((epochs[i + 1] - epochs[i]) * (values[i] + values[i + 1]) / 2 for i in range(len(values) - 1))
    return math.fsum(parts) / span


def median_epochs(reached: Sequence[float | None]) -> float | None:
    """The median, None in the sample counting as later than any number; None where the median itself is that."""
    if not reached:
        return None
    ordered = sorted(math.inf if epoch is None else epoch for epoch in reached)
    middle = len(ordered) // 2
    median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    return median if math.isfinite(median) else None


def _sd(values: Sequence[float], mean: float) -> float:
    if max(values) == min(values):
        return 0.0
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    # 90.3 − 90.1 and 80.3 − 80.1 differ in the last bit: equal differences must not get an interval made of rounding.
    return sd if sd > _TIE * max(map(abs, values)) else 0.0


def _dot(first: Sequence[float], second: Sequence[float]) -> float:
    return math.fsum(one * other for one, other in zip(first, second, strict=True))


def _around(centre: float, se: float, df: float) -> Interval:
    half = _t_quantile(df) * se
    return Interval(low=centre - half, high=centre + half)


@lru_cache(maxsize=1024)
def _t_quantile(df: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(df, (1 + LEVEL) / 2))
