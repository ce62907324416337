"""Ranks of methods over settings: mean ranks, Friedman's test, pairs, cliques, bootstrap. Pure functions.

A unit is what a test counts as one observation: a setting, or a seed if there is only one setting. Sources: Demšar
(2006), "Statistical comparisons of classifiers over multiple data sets", JMLR 7, for mean ranks, Friedman and Nemenyi;
Benavoli, Corani and Mangili (2016), "Should we really use post-hoc tests based on mean-ranks?", JMLR 17, for pairs. A
test of mean ranks of two methods depends on which other methods take part; the signed-rank test of a pair does not.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from core.protocol.comparisons import Interval
from core.protocol.leaderboards import FriedmanKind

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

Row = Sequence[float]
"""One number per method."""

DRAWS = 5000
"""Resamples of the bootstrap."""
FEW_UNITS = 10
"""Below this number of units a percentile bootstrap is too narrow by a degree that matters."""
_LEVEL = 0.95
_EXACT_PERMUTATIONS = 100_000
_DRAWN_PERMUTATIONS = 19_999
_DRAWN_NUMBERS = 2000
"""Up to this number of ranks, permutations are drawn; above it the χ² distribution is accurate."""
_SEED = 20_061_216
# Sums of the same ranks in another order differ by rounding; such permutations are ties and have to count as ties.
_TIE = 1e-9


def ranks_of(values: Row, *, higher_is_better: bool = True) -> list[float]:
    """Return the rank of each value, 1 for the best; equal values share the mean of their ranks."""
    signed = [-value if higher_is_better else value for value in values]
    first: dict[float, int] = {}
    last: dict[float, int] = {}
    for position, value in enumerate(sorted(signed), 1):
        first.setdefault(value, position)
        last[value] = position
    return [(first[value] + last[value]) / 2 for value in signed]


def mean_row(rows: Sequence[Row]) -> list[float]:
    """Return the mean of each column."""
    return [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]


@dataclass(frozen=True)
class Friedman:
    """Friedman's test that all methods have the same distribution of ranks.

    Attributes:
        statistic: χ², corrected for ties.
        p: Its p value.
        kind: How p was computed.
    """

    statistic: float
    p: float
    kind: FriedmanKind


def friedman(rows: Sequence[Row]) -> Friedman | None:
    """Test whether the ranks of the methods differ, by permutations of the ranks within each unit.

    If a unit is a setting, its row has the mean ranks over its seeds. The permutation test is valid for such rows, and
    for plain ranks the statistic is Friedman's with the correction for ties.

    Args:
        rows: One row of ranks per unit.

    Returns:
        None below two units or two methods, and if all ranks are equal.
    """
    units, methods = len(rows), len(rows[0]) if rows else 0
    centre = (methods + 1) / 2
    spread = math.fsum((rank - centre) ** 2 for row in rows for rank in row)
    if units < 2 or methods < 2 or spread <= _TIE:
        return None
    import numpy as np

    table = np.asarray(rows, dtype=np.float64) - centre
    factor = (methods - 1) / spread

    def statistics_of(sums: NDArray[float64]) -> NDArray[float64]:
        squares: NDArray[float64] = (sums**2).sum(axis=-1)
        return factor * squares

    observed = float(statistics_of(table.sum(axis=0)))
    threshold = observed * (1 - _TIE)
    permutations = math.factorial(methods) if methods <= 12 else math.inf
    if permutations ** (units - 1) <= _EXACT_PERMUTATIONS:
        # The statistic does not change if all rows are permuted alike, so the first row is fixed.
        orders = np.array(list(itertools.permutations(range(methods))))
        sums = table[:1]
        for row in table[1:]:
            sums = (sums[:, None, :] + row[orders][None, :, :]).reshape(-1, methods)
        return Friedman(observed, float(np.mean(statistics_of(sums) >= threshold)), "exact")
    if units * methods <= _DRAWN_NUMBERS:
        generator = np.random.default_rng(_SEED)
        sums = np.zeros((_DRAWN_PERMUTATIONS, methods))
        for row in table:
            sums += generator.permuted(np.tile(row, (_DRAWN_PERMUTATIONS, 1)), axis=1)
        as_extreme = int(np.count_nonzero(statistics_of(sums) >= threshold))
        return Friedman(observed, (as_extreme + 1) / (_DRAWN_PERMUTATIONS + 1), "drawn")
    from scipy.special import chdtrc

    return Friedman(observed, float(chdtrc(methods - 1, observed)), "chi_square")


def critical_difference(methods: int, units: int) -> float | None:
    """Return Nemenyi's critical difference of mean ranks at 5 %; None below two methods or two units."""
    if methods < 2 or units < 2:
        return None
    return _nemenyi_quantile(methods) * math.sqrt(methods * (methods + 1) / (6 * units))


@lru_cache(maxsize=256)
def _nemenyi_quantile(methods: int) -> float:
    """Return the 95 % quantile of the range of standard normal values, one per method, divided by √2.

    ``scipy.stats`` has it too, but takes a second to import, for which the first reader of a page would wait.
    """
    import numpy as np
    from scipy.special import ndtr

    greatest = np.linspace(-8.0, 8.0, 2001)
    density = np.exp(-(greatest**2) / 2) / math.sqrt(2 * math.pi)

    def chance(width: float) -> float:
        """Return the probability that all values are within ``width`` below the greatest of them."""
        within = ndtr(greatest) - ndtr(greatest - width)
        return float(methods * np.trapezoid(density * within ** (methods - 1), greatest))

    low, high = 0.0, 16.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if chance(middle) < _LEVEL else (low, middle)
    return low / math.sqrt(2)


def signed_rank_p(differences: Sequence[float]) -> float | None:
    """Return the two-sided p of Wilcoxon's signed-rank test, exact also with ties; differences of 0 do not count.

    Returns:
        None without differences; 1 if all are 0.
    """
    if not differences:
        return None
    largest = max(map(abs, differences))
    if largest == 0:
        return 1.0
    # Differences of the same numbers may differ in the last bit: they are ties.
    relative = [rounded for difference in differences if (rounded := round(difference / largest, 9))]
    doubled = [round(2 * rank) for rank in ranks_of(list(map(abs, relative)), higher_is_better=False)]
    positive = sum(rank for rank, difference in zip(doubled, relative, strict=True) if difference > 0)
    tails = _tails(tuple(sorted(doubled)))
    total = sum(doubled)
    return min(1.0, 2 * tails[min(positive, total - positive)])


@lru_cache(maxsize=256)
def _tails(doubled: tuple[int, ...]) -> tuple[float, ...]:
    """Return the probability, by random signs, that the ranks with a positive sign have at most each sum.

    Args:
        doubled: Twice each rank, which is an integer also for ties.
    """
    import numpy as np

    chances = np.zeros(sum(doubled) + 1)
    chances[0] = 1.0
    reached = 0
    for rank in doubled:
        shifted = np.zeros_like(chances)
        shifted[rank : reached + rank + 1] = chances[: reached + 1]
        chances = (chances + shifted) / 2
        reached += rank
    return tuple(np.cumsum(chances).tolist())


def smallest_holm_p(units: int, pairs: int) -> float:
    """Return the smallest p after Holm that the signed-rank test of one of several pairs can give."""
    return min(1.0, pairs * 2.0 ** (1 - units)) if units else 1.0


def units_needed(pairs: int, alpha: float) -> int:
    """Return the fewest units with which a pair can have a p below ``alpha`` after Holm over all pairs."""
    return next(units for units in itertools.count(1) if smallest_holm_p(units, pairs) < alpha)


def cliques(count: int, differs: Callable[[int, int], bool]) -> list[range]:
    """Return the largest groups of neighbours of which no pair differs; a group has at least two methods.

    Args:
        count: Number of methods, in the order of their mean ranks.
        differs: Whether the methods at two positions differ.
    """
    groups: list[range] = []
    for start in range(count):
        end = start + 1
        while end < count and not any(differs(other, end) for other in range(start, end)):
            end += 1
        if end - start > 1 and (not groups or end > groups[-1].stop):
            groups.append(range(start, end))
    return groups


def bootstrap(settings: Sequence[Sequence[Row]]) -> list[Interval] | None:
    """Return the 95 % percentile interval of each mean rank, from a fixed seed.

    Settings are drawn with replacement, and within each the seeds. A single setting is kept, and its seeds are drawn.

    Args:
        settings: By setting, one row of ranks per seed.

    Returns:
        None if there is nothing to draw: one setting with one seed.
    """
    if len(settings) < 2 and sum(map(len, settings)) < 2:
        return None
    import numpy as np

    generator = np.random.default_rng(_SEED)
    count = len(settings)
    chosen = generator.integers(count, size=(DRAWS, count))
    sums = np.zeros((DRAWS, len(settings[0][0])))
    for index, rows in enumerate(settings):
        table = np.asarray(rows, dtype=np.float64)
        times = (chosen == index).sum(axis=1)
        resamples = np.repeat(np.arange(DRAWS), times)
        weights = generator.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=len(resamples))
        np.add.at(sums, resamples, weights @ table / len(rows))
    low, high = np.quantile(sums / count, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2], axis=0)
    return [Interval(low=float(first), high=float(last)) for first, last in zip(low, high, strict=True)]
