"""Verdicts: whether a report calls one method better than another. Only this module decides it.

A report is the answer to one request: a comparison, an overview, a table, the claims. Its family is every comparison of
a method with the baseline that it tests, over all of its metrics and rows. A verdict needs p < 0.05 after Holm's
correction (1979) over that family, so the chance that a report without any true difference contains "better" or "worse"
is below 5 %; and a 95 % t interval of the comparison that does not contain zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from backend.comparisons import statistics
from backend.comparisons.statistics import Better
from common.formatting import SIGNIFICANCE, p_text, signed, span_text
from core.protocol.comparisons import Interval

Verdict = Literal["better", "worse", "higher", "lower", "unclear"]


@dataclass(frozen=True)
class Test:
    """One comparison of a method with the baseline, before p is adjusted.

    Attributes:
        n: Number of differences.
        mean: Mean of the differences; None if there are none.
        p: Two-sided p of this comparison alone; None if it is not tested.
        smallest_p: The smallest p that n differences can give; None if there is no such bound.
        interval: 95 % t interval of the mean, of this comparison alone.
        better: The direction that is better; None if neither is.
    """

    __test__ = False  # pytest would collect the class by its name

    n: int
    mean: float | None
    p: float | None
    smallest_p: float | None = None
    interval: Interval | None = None
    better: Better = None

    @classmethod
    def of(cls, differences: Sequence[float], better: Better = "higher") -> Test:
        """Return the exact sign-flip test of differences, one per pair."""
        summary = statistics.summarize(differences)
        p, smallest_p = statistics.sign_flip_p(differences), statistics.smallest_p(summary.n)
        return cls(summary.n, summary.mean, p, smallest_p, summary.interval, better)

    @property
    def excludes_zero(self) -> bool:
        """Return whether the interval excludes zero; True if there is no interval because the values have no spread."""
        return self.interval is None or not self.interval.low <= 0 <= self.interval.high


@dataclass(frozen=True)
class Decision:
    """The decision on one comparison of a report.

    Attributes:
        p_holm: P after Holm's correction over the report; None if the comparison is not tested.
        verdict: Verdict; None if the comparison is not tested.
        tests: Number of comparisons that the report tests.
        smallest_p_holm: The smallest ``p_holm`` that the numbers of differences in this report allow.
    """

    p_holm: float | None
    verdict: Verdict | None
    tests: int
    smallest_p_holm: float | None = None


def decide(family: Sequence[Test]) -> list[Decision]:
    """Decide on every comparison of a report, in the given order."""
    adjusted = statistics.holm([test.p for test in family])
    bounds = statistics.holm([None if test.p is None else test.smallest_p or 0.0 for test in family])
    count = sum(test.p is not None for test in family)
    return [
        Decision(p, _verdict(test, p), count, smallest)
        for test, p, smallest in zip(family, adjusted, bounds, strict=True)
    ]


def _verdict(test: Test, p_holm: float | None) -> Verdict | None:
    if p_holm is None or test.mean is None:
        return None
    if p_holm >= SIGNIFICANCE or test.mean == 0 or not test.excludes_zero:
        return "unclear"
    higher = test.mean > 0
    if test.better is None:
        return "higher" if higher else "lower"
    return "better" if higher == (test.better == "higher") else "worse"


def sentence(test: Test, decision: Decision, *, label: str, baseline: str, unit: str = "", noun: str = "pair") -> str:
    """Return the result of a comparison in one sentence.

    Args:
        test: The comparison.
        decision: The decision on the comparison.
        label: Label of the method.
        baseline: Label of the baseline.
        unit: Unit of the differences, such as ``percentage points``.
        noun: Unit of observation: a pair, or a teacher whose pairs were averaged.
    """
    n, mean = test.n, test.mean
    pairs = f"{n} {noun}" if n == 1 else f"{n} {noun}s"
    if n == 0 or mean is None:
        return "No seed has a value for both methods yet, so there is nothing to compare."
    if n == 1:
        return f"1 {noun} ({signed(mean, unit)}) gives no interval: the difference may be chance."
    undecided = f"does not show {'which is better' if test.better else 'which is higher'}"
    verdict = f"{label} is {decision.verdict} than {baseline}" if decision.verdict != "unclear" else ""
    p = _p_words(test, decision, pairs)
    if test.interval is None:
        every = f"both {noun}s" if n == 2 else f"all {pairs}"
        if mean == 0:
            return f"The two are equal in {every}: there is no difference, and without spread no interval to bound it."
        difference = f"The difference is {signed(mean, unit)} in {every}, without the spread that an interval needs"
        return f"{difference}, and {p}: {verdict}." if verdict else f"{difference}; {p}, so this {undecided}."
    interval = f"the interval {span_text(test.interval, unit, mean)}"
    capital = f"T{interval[1:]}"
    small = decision.p_holm is not None and decision.p_holm < SIGNIFICANCE
    if verdict:
        return f"{capital} excludes zero and {p}: {verdict}."
    if not test.excludes_zero:
        if small:
            return f"{capital} contains zero but {p}: the two disagree, so this {undecided}."
        return f"{capital} contains zero and {p}, so this {undecided}."
    return f"{capital}, of this comparison alone, excludes zero, but {p}, so this {undecided}."


def _p_words(test: Test, decision: Decision, pairs: str) -> str:
    """Return the clause with the decisive p and its name; or the clause that so few pairs cannot give a small p."""
    over = f" after Holm over the {decision.tests} comparisons of this report"
    if test.smallest_p is not None and test.smallest_p >= SIGNIFICANCE:
        return f"{pairs} cannot show p < {p_text(test.smallest_p, 3)}"
    if decision.smallest_p_holm is not None and decision.smallest_p_holm >= SIGNIFICANCE:
        smallest = p_text(decision.smallest_p_holm)
        return f"{pairs} cannot show p < {smallest}{over} (p of this comparison alone: {p_text(test.p)})"
    if decision.tests > 1:
        alone = f"{pairs}; p of this comparison alone: {p_text(test.p)}"
        return f"the sign-flip p is {p_text(decision.p_holm)}{over} ({alone})"
    return f"the sign-flip p is {p_text(test.p)} ({pairs})"
