"""The race of a sweep: a setting that is surely worse than another one gets no more seeds.

Settings share their seeds, so that two of them are compared in pairs, by the looks and the tests that compare a method
with its baseline. Each pair of settings gets an equal part of the error probability. So the probability that a setting
loses to one that is not better is at most alpha, for all numbers of seeds of the settings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from common.sequential.decision import Rule, is_surely_lower


def better_setting(
    own: Sequence[float | None], others: Sequence[Sequence[float | None]], rule: Rule, better: str | None
) -> int | None:
    """Return the index of a setting that is surely better than this one; None if there is none.

    Args:
        own: The setting's values by seed, in the order of the seeds, of the seeds that are complete; None if a value
            cannot be had.
        others: Those of all other settings of the sweep. Settings may have come to different numbers of seeds: a pair
            is compared over the seeds that both have.
        rule: When to stop.
        better: "higher" or "lower"; None if neither is better, and nothing is raced.
    """
    if better is None or not others:
        return None
    sign = 1.0 if better == "higher" else -1.0
    level = rule.alpha / math.comb(len(others) + 1, 2)
    for index, other in enumerate(others):
        differences = [
            None if value is None or against is None else sign * (value - against)
            for value, against in zip(own, other, strict=False)
        ]
        if is_surely_lower(differences, rule, level):
            return index
    return None
