"""The decision on every comparison of an experiment, from the paired differences in the order of their seeds.

This is the only place that decides: the backend's planner and its comparisons, ``python -m core run`` and the
simulation call ``decide``, and nothing else ends a comparison.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from common.sequential import sign_flips
from common.sequential.spending import Schedule, schedule
from common.sequential.student import critical_values

Verdict = Literal["higher", "lower", "no difference", "cannot tell", "undecided"]
"""``no difference``: none of the rule's size or more. ``cannot tell``: the most seeds have not decided."""

WITHOUT_PAIRS = 2
"""After so many seeds in a row without a pair for any undecided comparison, more seeds would give none either."""
# 90.3 − 90.1 and 80.3 − 80.1 differ in the last bit: rounding alone is no spread.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Rule:
    """When to stop.

    Attributes:
        first: Number of seeds at the first look; every further seed is followed by a look.
        most: The greatest number of seeds.
        difference: The difference that matters, in the unit of the values.
        alpha: The error probability over all looks and comparisons.
    """

    first: int
    most: int
    difference: float
    alpha: float


@dataclass(frozen=True)
class Look:
    """What one look at a comparison showed.

    Attributes:
        seeds: Number of seeds at the look.
        n: Number of pairs that have a value.
        mean: Mean of their differences; None without any.
        low: Lower end of the interval. With probability 1 − alpha the intervals of all looks at all comparisons
            contain the true difference. None if a new pair was missing, or if there are fewer than two.
        high: Upper end.
    """

    seeds: int
    n: int
    mean: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Decision:
    """The decision on one comparison.

    Attributes:
        verdict: The verdict.
        seeds: Number of seeds at the last look that counts: the deciding one, or else the newest.
        looks: All looks up to it.
        missing: Positions of the seeds without a pair among these, from 0.
    """

    verdict: Verdict
    seeds: int
    looks: tuple[Look, ...]
    missing: tuple[int, ...]

    @property
    def decided(self) -> bool:
        """Whether the comparison needs no more seeds."""
        return self.verdict != "undecided"


@dataclass
class _Comparison:
    history: Sequence[float | None]
    values: list[float] = field(default_factory=list)
    visits: list[tuple[int, int]] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    verdict: Verdict = "undecided"

    def look(self, seeds: int, rule: Rule, level: float) -> bool:
        """Add the values up to a number of seeds, and return whether the look can decide: whether a value is new."""
        before = len(self.values)
        self.values = [value for value in self.history[:seeds] if value is not None]
        is_new = len(self.values) > before and len(self.values) > 1
        if is_new:
            self.visits.append((len(self.values), seeds))
        interval = self._interval(self._schedule(rule, level)) if is_new else (None, None)
        mean = math.fsum(self.values) / len(self.values) if self.values else None
        self.looks.append(Look(seeds, len(self.values), mean, *interval))
        return is_new

    def direction(self, rule: Rule, levels: Sequence[float]) -> Verdict | None:
        """Return whether the difference is higher or lower than zero; None if neither is shown.

        Args:
            rule: When to stop.
            levels: The level, and all greater ones that Holm's procedure may still give. A boundary of the sign-flip
                test is not always lower at a greater level, because the error that is spent early is missing later.
                Only what is rejected at all of them may count, so that the procedure keeps its error probability.
        """
        low, high = self._interval(self._schedule(rule, levels[0]))
        if low <= 0 <= high:
            return None
        if not all(sign_flips.rejects(self.values, self._schedule(rule, level)) for level in levels):
            return None
        return "higher" if low > 0 else "lower"

    def is_within(self, rule: Rule, level: float) -> bool:
        """Return whether the difference is shown to be smaller than the rule's, in both directions, at a level."""
        looks = self._schedule(rule, level)
        low, high = self._interval(looks)
        margin = rule.difference
        return (
            -margin < low
            and high < margin
            and all(sign_flips.rejects([value - end for value in self.values], looks) for end in (-margin, margin))
        )

    def result(self) -> Decision:
        seeds = self.looks[-1].seeds if self.looks else 0
        missing = tuple(index for index, value in enumerate(self.history[:seeds]) if value is None)
        return Decision(self.verdict, seeds, tuple(self.looks), missing)

    def _schedule(self, rule: Rule, level: float) -> Schedule:
        return schedule(self.visits, rule.most, level)

    def _interval(self, looks: Schedule) -> tuple[float, float]:
        return interval(self.values, critical_values(looks)[-1])


def interval(values: Sequence[float], critical: float) -> tuple[float, float]:
    """Return mean ± critical × standard error; a single point for at least two values without any spread."""
    n = len(values)
    mean = math.fsum(values) / n
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    if sd <= _ROUNDING * max(map(abs, values)):
        return mean, mean
    half = critical * sd / math.sqrt(n)
    return mean - half, mean + half


def is_surely_lower(history: Sequence[float | None], rule: Rule, level: float) -> bool:
    """Return whether a look has shown that differences are lower than zero, at a level for all looks.

    Args:
        history: The differences by seed, as of ``decide``.
        rule: When the looks happen.
        level: The error probability, over both directions.
    """
    comparison = _Comparison(history)
    return any(
        comparison.look(seeds, rule, level) and comparison.direction(rule, [level]) == "lower"
        for seeds in range(rule.first, min(len(history), rule.most) + 1)
    )


def is_stuck(histories: Sequence[Sequence[float | None]]) -> bool:
    """Return whether the newest seeds gave no pair for any of the undecided comparisons with these histories."""
    return all(
        len(history) >= WITHOUT_PAIRS and not any(value is not None for value in history[-WITHOUT_PAIRS:])
        for history in histories
    )


def decide(histories: Sequence[Sequence[float | None]], rule: Rule) -> list[Decision]:
    """Decide on all comparisons of an experiment.

    Each look replays from the first one, so the same histories always give the same decisions, and a comparison that
    is decided stays as it was at that look, whatever follows. "higher" and "lower" need an interval without zero and
    the exact sign-flip test, both at the level that Holm's procedure gives over the comparisons; "no difference" needs
    an interval inside (−difference, difference) and the sign-flip test against both ends, at alpha divided by the
    number of comparisons.

    Args:
        histories: For each comparison the differences by seed, in the order of the seeds, of the seeds that are
            complete. None is a pair that cannot be had. A history is shorter if its comparison gets no more seeds.
        rule: When to stop.
    """
    comparisons = [_Comparison(history) for history in histories]
    complete = max(map(len, histories), default=0)
    least = rule.alpha / max(1, len(comparisons))
    for seeds in range(rule.first, min(complete, rule.most) + 1):
        undecided = [item for item in comparisons if item.verdict == "undecided" and len(item.history) >= seeds]
        fresh = [item for item in undecided if item.look(seeds, rule, least)]
        _decide_directions(fresh, comparisons, rule)
        for item in fresh:
            if item.verdict == "undecided" and item.is_within(rule, least):
                item.verdict = "no difference"
        if seeds == rule.most:
            for item in undecided:
                if item.verdict == "undecided":
                    item.verdict = "cannot tell"
    return [item.result() for item in comparisons]


def _decide_directions(fresh: Sequence[_Comparison], comparisons: Sequence[_Comparison], rule: Rule) -> None:
    """Decide "higher" and "lower" by Holm's procedure: every rejection raises the level of the comparisons left."""
    while True:
        rejected = sum(item.verdict in ("higher", "lower") for item in comparisons)
        levels = [rule.alpha / left for left in range(len(comparisons) - rejected, 0, -1)]
        found = [
            (item, verdict)
            for item in fresh
            if item.verdict == "undecided" and (verdict := item.direction(rule, levels)) is not None
        ]
        if not found:
            return
        for item, verdict in found:
            item.verdict = verdict
