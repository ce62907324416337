"""The exact sign-flip test over several looks, for differences that are symmetric about zero.

If two methods do not differ, every difference could equally have had the other sign, independently of its size. Given
the sizes, all 2ⁿ patterns of signs are therefore equally likely, and the part of them that has crossed a boundary by a
look is known exactly, whatever the distribution. The boundary of a look is the lowest one at which this part is at most
the error probability that may be spent up to the look. It depends on the sizes alone, never on the signs.
"""

from __future__ import annotations

from collections.abc import Sequence

from common.sequential.spending import Schedule

EXACT = 20
"""Up to this number of values all patterns are counted; above it they are drawn, with a fixed seed."""
_DRAWN = 99_999
_SEED = 20_220_316
# Sums of the same numbers in another order differ by rounding: such patterns are ties, and all of them cross or none.
_TIE = 1e-9


def rejects(differences: Sequence[float], schedule: Schedule) -> bool:
    """Return whether the test has rejected "symmetric about zero" at one of the looks.

    Args:
        differences: One value per pair, in the order in which the looks saw them.
        schedule: Numbers of values at the looks, and the error probability spent up to each.
    """
    # No pattern of n signs has a probability below 2^(1−n), its mirror image included.
    if all(spent < 2.0 ** (1 - values) for values, spent in schedule):
        return False
    # Imported here because numpy is slow to import, and the backend has to start at once.
    import numpy as np

    spent_at = dict(schedule)
    last = max(spent_at)
    drawn = np.random.default_rng(_SEED) if last > EXACT else None
    # |sum| is the same for a pattern and its mirror image, so the first sign is fixed. Pattern 0 is the observed one.
    sums = np.full(1 if drawn is None else _DRAWN + 1, differences[0])
    crossed = np.zeros(len(sums), dtype=bool)
    size = abs(differences[0])
    for count in range(1, last + 1):
        if count > 1:
            value = differences[count - 1]
            size += abs(value)
            if drawn is None:
                sums = np.concatenate((sums + value, sums - value))
                crossed = np.concatenate((crossed, crossed))
            else:
                signs = 2.0 * drawn.integers(0, 2, len(sums)) - 1.0
                signs[0] = 1.0
                sums += value * signs
        if count not in spent_at:
            continue
        # The patterns that may cross at this look; the tolerance is for the rounding of the product.
        allowed = int(spent_at[count] * len(sums) * (1 + _TIE)) - int(np.count_nonzero(crossed))
        if allowed <= 0:
            continue
        sizes = np.abs(sums)
        sizes[crossed] = 0.0  # a sum of zero never crosses
        place = max(0, len(sums) - allowed - 1)
        crossing = sizes > np.partition(sizes, place)[place] + _TIE * size
        if crossing[0]:
            return True
        crossed |= crossing
    return False
