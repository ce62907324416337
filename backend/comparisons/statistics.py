"""Statistics of few seeds: t intervals, the exact sign-flip test, Holm, Welch, epochs to a target. Pure functions.

Intervals are Student's t, never the bootstrap: at n = 3, 5, 8 the percentile bootstrap covers 0.75, 0.84, 0.88 instead
of 0.95. Every function is defined for any n; a value that cannot be computed is None.
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
"""Up to this number of pairs all 2^(n−1) sign patterns are counted (half a million); above it they are drawn."""
_DRAWS = 99_999
_SEED = 20_220_316
# Sums of the same numbers in another order differ by rounding; such patterns are ties and have to count as ties.
_TIE = 1e-9

Better = Literal["higher", "lower"] | None


@dataclass(frozen=True)
class Summary:
    """A sample's mean and spread, in the sample's unit.

    Attributes:
        sd: Sample standard deviation; None below n = 2.
        se: Standard error of the mean, sd/√n.
        interval: 95 % t interval of the mean; None below n = 2, and if all values are equal: a spread of exactly zero
            in a few values gives no bound.
    """

    n: int
    mean: float | None = None
    sd: float | None = None
    se: float | None = None
    interval: Interval | None = None


def summarize(values: Sequence[float]) -> Summary:
    """Return mean, standard deviation, standard error and 95 % t interval of finite numbers."""
    n = len(values)
    if n == 0:
        return Summary(n=0)
    mean = math.fsum(values) / n
    if n == 1:
        return Summary(n=1, mean=mean)
    sd = _sd(values, mean)
    se = sd / math.sqrt(n)
    interval = _t_interval(mean, se, n - 1) if sd > 0 else None
    return Summary(n=n, mean=mean, sd=sd, se=se, interval=interval)


def by_block(values: Mapping[tuple[str, int], float]) -> list[float]:
    """Return independent values: the values of a single block, or the mean of each of several blocks.

    Runs of one teacher share what that teacher has learned, so over several teachers a teacher is the unit, and its
    runs are averaged first.

    Args:
        values: Values by block (a teacher's fingerprint) and seed.
    """
    blocks: dict[str, list[float]] = {}
    for (block, _), value in values.items():
        blocks.setdefault(block, []).append(value)
    if len(blocks) <= 1:
        return list(values.values())
    return [math.fsum(block) / len(block) for block in blocks.values()]


def smallest_p(n: int) -> float | None:
    """Return the smallest two-sided sign-flip p that n pairs can give: 2^(1−n); None for n = 0."""
    return 2.0 ** (1 - n) if n else None


def sign_flip_p(differences: Sequence[float]) -> float | None:
    """Return the two-sided p of the mean difference under random signs: the share of sign patterns as extreme or more.

    Exact up to ``EXACT_PAIRS`` pairs. Above, (k + 1)/(m + 1) over m = 99,999 random patterns from a fixed seed, which
    is a valid p and the same at every call.

    Args:
        differences: One difference per pair.

    Returns:
        None without pairs.
    """
    n = len(differences)
    if n == 0:
        return None
    # Imported here because numpy is slow to import, and the backend has to start at once.
    import numpy as np

    observed = abs(math.fsum(differences))
    threshold = observed - _TIE * math.fsum(map(abs, differences))
    if n <= EXACT_PAIRS:
        # |sum| is the same for a pattern and its mirror image, so the first sign is fixed.
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
    """Return the two-sided exact p of the sign test for these numbers of signs; None without any."""
    n = earlier + later
    if n == 0:
        return None
    tail: float = sum(math.comb(n, k) for k in range(min(earlier, later) + 1)) / 2**n
    return min(1.0, 2 * tail)


def paired_t_p(differences: Sequence[float]) -> float | None:
    """Return the two-sided p of the paired t test, for normal differences; None without spread or below n = 2."""
    summary = summarize(differences)
    return None if summary.mean is None else t_p(summary.mean, summary.sd, summary.n)


def t_p(mean: float, sd: float | None, n: int, limit: float = 0.0) -> float | None:
    """Return the two-sided p of the t test that n normally distributed values have the mean ``limit``.

    Args:
        mean: Mean of the values.
        sd: Sample standard deviation of the values.
        n: Number of values.
        limit: Mean under the null hypothesis.

    Returns:
        None without spread or below n = 2.
    """
    if n < 2 or not sd:
        return None
    from scipy.special import stdtr

    return float(2 * stdtr(n - 1, -abs(mean - limit) / (sd / math.sqrt(n))))


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Return the adjusted p of each test, in the given order (Holm 1979).

    Rejecting every test whose adjusted p is at most α keeps the chance of any false rejection below α.

    Args:
        ps: The p value of each test; None means that there is no test, stays None and is not counted.
    """
    order = sorted((p, index) for index, p in enumerate(ps) if p is not None)
    adjusted: list[float | None] = [None] * len(ps)
    running = 0.0
    for rank, (p, index) in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * p))
        adjusted[index] = running
    return adjusted


def correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Pearson's correlation; None below n = 3, or if one side does not vary."""
    if len(first) < 3:
        return None
    if min(first) == max(first) or min(second) == max(second):
        return None
    first_mean, second_mean = math.fsum(first) / len(first), math.fsum(second) / len(second)
    left, right = [value - first_mean for value in first], [value - second_mean for value in second]
    squares = _dot(left, left) * _dot(right, right)
    return min(1.0, max(-1.0, _dot(left, right) / math.sqrt(squares))) if squares > 0 else None


def welch_interval(values: Sequence[float], baseline: Sequence[float]) -> Interval | None:
    """Return the 95 % interval of the difference of the means of independent samples (Welch 1947).

    Returns:
        None if a side has fewer than two values, or neither varies.
    """
    first, second = summarize(values), summarize(baseline)
    if first.mean is None or second.mean is None or first.se is None or second.se is None:
        return None
    variance = first.se**2 + second.se**2
    if variance == 0:
        return None
    df = variance**2 / (first.se**4 / (first.n - 1) + second.se**4 / (second.n - 1))
    return _t_interval(first.mean - second.mean, math.sqrt(variance), df)


def epochs_to_target(epochs: Sequence[float], values: Sequence[float], target: float) -> float | None:
    """Return the epoch of the first of two consecutive measurements at or above the target.

    A single peak does not count, so the last measurement counts only as the second of a pair. NaN is below every
    target.

    Args:
        epochs: Epoch of each measurement, increasing.
        values: The measurements; as many as epochs.
        target: Target in the unit of the values.

    Returns:
        None if there are no two such measurements.
    """
    for index in range(len(values) - 1):
        if values[index] >= target and values[index + 1] >= target:
            return epochs[index]
    return None


def area_under(epochs: Sequence[float], values: Sequence[float]) -> float | None:
    """Return the mean of the curve between its first and last measurement, by trapezoids, in the unit of the values.

    Returns:
        None for an empty curve, and if a value is not finite.
    """
    if not values or not all(map(math.isfinite, values)):
        return None
    span = epochs[-1] - epochs[0]
    if span <= 0:
        return values[-1]
    areas = ((epochs[i + 1] - epochs[i]) * (values[i] + values[i + 1]) / 2 for i in range(len(values) - 1))
    return math.fsum(areas) / span


def median_epochs(reached: Sequence[float | None]) -> float | None:
    """Return the median, where None counts as later than any number; None if the median itself is None."""
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
    # 90.3 − 90.1 and 80.3 − 80.1 differ in the last bit: rounding alone must not give equal differences an interval.
    return sd if sd > _TIE * max(map(abs, values)) else 0.0


def _dot(first: Sequence[float], second: Sequence[float]) -> float:
    return math.fsum(one * other for one, other in zip(first, second, strict=True))


def _t_interval(centre: float, se: float, df: float) -> Interval:
    half = _t_quantile(df) * se
    return Interval(low=centre - half, high=centre + half)


@lru_cache(maxsize=1024)
def _t_quantile(df: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(df, (1 + LEVEL) / 2))
