"""How much of the error probability may be spent after a part of the seeds (Lan and DeMets 1983)."""

from __future__ import annotations

from collections.abc import Sequence

RHO = 1.5
"""Exponent of the power family of Kim and DeMets (1987): above 1, later looks get more of the error than earlier."""

Schedule = tuple[tuple[int, float], ...]
"""The looks at one comparison: the number of its values, and the error probability spent up to this look."""


def schedule(looks: Sequence[tuple[int, int]], most: int, level: float) -> Schedule:
    """Return the error probability that may be spent up to each look.

    It depends on the numbers of seeds alone, never on a value, so the error of the whole sequence is at most ``level``.

    Args:
        looks: The number of values and the number of seeds at each look, both increasing.
        most: The greatest number of seeds.
        level: The error probability of the whole sequence.
    """
    return tuple((values, level * min(1.0, seeds / most) ** RHO) for values, seeds in looks)
