"""The exact sign-flip test over several looks, for differences that are symmetric about zero.

If two methods do not differ, every difference could equally have had the other sign, independently of its size. Given
the sizes, all 2ⁿ patterns of signs are therefore equally likely, and the part of them that has crossed a boundary by a
look is known exactly, whatever the distribution. The boundary of a look is the lowest one at which this part is at most
the error probability that may be spent up to the look. It depends on the sizes alone, never on the signs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from common.sequential.spending import Schedule

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EXACT = 20
"""Up to this number of values all patterns are counted; above it they are drawn, with a fixed seed."""
_DRAWN = 99_999
_SEED = 20_220_316
_FLOORS = (1.9, 1.3, 0.0)
"""Standard deviations that a |sum| has to reach to be counted: the next ones are tried if one is too high."""
_FEW = 13
"""Up to this number of values it is faster to leave no pattern out."""
# Sums of the same numbers in another order differ by rounding: such patterns are ties, and all of them cross or none.
_TIE = 1e-9


def rejects(differences: Sequence[float], schedule: Schedule) -> bool:
    """Return whether the test has rejected "symmetric about zero" at one of the looks.

    Args:
        differences: One value per pair, in the order in which the looks saw them.
        schedule: Numbers of values at the looks, and the error probability spent up to each.
    """
    # No pattern of n signs has a probability below 2^(1−n), its mirror image included.
    looks = {values: spent for values, spent in schedule if spent * (1 + _TIE) >= 2.0 ** (1 - values)}
    if not looks:
        return False
    if max(looks) > EXACT:
        return _rejects_drawn(differences, looks)
    floors = _FLOORS if max(looks) > _FEW else _FLOORS[-1:]
    return next(found for floor in floors if (found := _rejects_counted(differences, looks, floor)) is not None)


def _rejects_counted(differences: Sequence[float], looks: Mapping[int, float], floor: float) -> bool | None:
    """Count all patterns. |sum| is the same for a pattern and its mirror image, so the first sign is fixed.

    Only the patterns with the greatest |sum| can cross. Those that reach ``floor`` standard deviations at no look are
    left out as soon as this is known.

    Returns:
        Whether the test has rejected; None if more patterns may cross at a look than reach the floor.
    """
    # Imported here because numpy is slow to import, and the backend has to start at once.
    import numpy as np

    values = np.asarray(differences[: max(looks)], dtype=float)
    reach, squares = np.cumsum(np.abs(values)), np.cumsum(values**2)
    observed, ties = np.abs(np.cumsum(values)), _TIE * reach
    floors = {look: floor * math.sqrt(squares[look - 1]) for look in looks}
    last = max(looks)
    floors[last] = max(floors[last], observed[last - 1] - ties[last - 1])
    ahead = np.full(last, math.inf)
    for look, level in floors.items():
        ahead[:look] = np.minimum(ahead[:look], level - reach[look - 1])
    sums, crossed = values[:1], 0
    for count in range(1, last + 1):
        tie = ties[count - 1]
        if count > 1:
            sums = np.concatenate((sums + values[count - 1], sums - values[count - 1]))
            crossed *= 2
            if floor and (needed := ahead[count - 1] + reach[count - 1] - tie) > 0:
                sums = sums[np.abs(sums) >= needed]
        if count not in looks:
            continue
        # The patterns that may cross at this look; the tolerance is for the rounding of the product.
        allowed = int(looks[count] * 2 ** (count - 1) * (1 + _TIE)) - crossed
        if allowed <= 0:
            continue
        sizes = np.abs(sums)
        large = sizes[sizes >= floors[count]] if floors[count] > 0 else sizes
        if count == last:
            if len(large) > allowed:  # too many are as large as the observed one, or even reach a floor above it
                return False
            is_complete = floors[count] <= observed[count - 1] - tie or not floor
            return bool(observed[count - 1] > tie) if is_complete else None
        if len(large) <= allowed and floor:
            return None
        bound = _greatest(large, allowed) + tie
        if observed[count - 1] > bound:
            return True
        crossing = sizes > bound
        crossed += int(np.count_nonzero(crossing))
        sums = sums[~crossing]
    return False


def _rejects_drawn(differences: Sequence[float], looks: Mapping[int, float]) -> bool:
    """Draw patterns; pattern 0 is the observed one."""
    import numpy as np

    source = np.random.default_rng(_SEED)
    sums = np.full(_DRAWN + 1, differences[0])
    crossed = np.zeros(len(sums), dtype=bool)
    size = abs(differences[0])
    for count in range(2, max(looks) + 1):
        value = differences[count - 1]
        size += abs(value)
        signs = 2.0 * source.integers(0, 2, len(sums)) - 1.0
        signs[0] = 1.0
        sums += value * signs
        if count not in looks:
            continue
        allowed = int(looks[count] * len(sums) * (1 + _TIE)) - int(np.count_nonzero(crossed))
        if allowed <= 0:
            continue
        sizes = np.abs(sums)
        sizes[crossed] = 0.0  # a sum of zero never crosses
        crossing = sizes > _greatest(sizes, allowed) + _TIE * size
        if crossing[0]:
            return True
        crossed |= crossing
    return False


def _greatest(sizes: NDArray[np.float64], allowed: int) -> float:
    """Return the greatest size that must not cross if at most ``allowed`` may; the sizes above it may."""
    import numpy as np

    place = len(sizes) - allowed - 1
    return float(np.partition(sizes, place)[place]) if place >= 0 else 0.0
