"""Whether a report may say that one method is better than another: the one place where that is decided.

A report is what one request answers: a comparison, an overview, a table, the claims. Its family is every comparison of
a method with the baseline that it tests, over all of its metrics and rows. A verdict in words needs p < 0.05 after
Holm's correction (1979) over that family, so the chance that a report without any true difference says "better" or
"worse" anywhere is below 5 %; and a 95 % t interval of the comparison that does not contain zero.
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
    """One comparison of a method with the baseline, before anything is adjusted.

    Attributes:
        n: differences that it is of.
        mean: of the differences; None without any.
        p: two-sided, of this comparison alone; None where nothing is tested.
        smallest_p: the smallest that so many differences can give; None where there is no such bound.
        interval: 95 % t interval of the mean, of this comparison alone.
        better: which way is better; None where neither is.
    """

    __test__ = False  # pytest would take the name for a test's

    n: int
    mean: float | None
    p: float | None
    smallest_p: float | None = None
    interval: Interval | None = None
    better: Better = None

    @classmethod
    def of(cls, differences: Sequence[float], better: Better = "higher") -> Test:
        """The exact sign-flip test of differences, one a pair."""
        found = statistics.summarize(differences)
        p, least = statistics.sign_flip_p(differences), statistics.smallest_p(found.n)
        return cls(found.n, found.mean, p, least, found.interval, better)

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval says that there is a difference; without spread there is none that could disagree."""
        return self.interval is None or not self.interval.low <= 0 <= self.interval.high


@dataclass(frozen=True)
class Decision:
    """What a report may say of one of its comparisons.

    Attributes:
        p_holm: after Holm over the report; None where nothing is tested.
        verdict: None where nothing is tested.
        tests: comparisons that the report tests.
        least: the smallest ``p_holm`` that so few differences could give in this report.
    """

    p_holm: float | None
    verdict: Verdict | None
    tests: int
    least: float | None = None


def decide(family: Sequence[Test]) -> list[Decision]:
    """Of every comparison of a report, in the given order."""
    adjusted = statistics.holm([test.p for test in family])
    bounds = statistics.holm([None if test.p is None else test.smallest_p or 0.0 for test in family])
    count = sum(test.p is not None for test in family)
    return [
        Decision(p, _verdict(test, p), count, least) for test, p, least in zip(family, adjusted, bounds, strict=True)
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
    """What a report may say about ``label`` against ``baseline``, in one plain sentence.

    Args:
        unit: of the differences, as ``percentage points``.
        noun: what each difference is of: a pair, or a teacher whose pairs were averaged.
    """
    n, mean = test.n, test.mean
    pairs = f"{n} {noun}" if n == 1 else f"{n} {noun}s"
    if n == 0 or mean is None:
        return "No seed has a value for both methods yet, so there is nothing to compare."
    if n == 1:
        return f"1 {noun} ({signed(mean, unit)}) has no interval: it cannot tell a difference from chance."
    tells = f"does not tell {'which is better' if test.better else 'which is higher'}"
    verdict = f"{label} is {decision.verdict} than {baseline}" if decision.verdict != "unclear" else ""
    p = _p_words(test, decision, pairs)
    if test.interval is None:
        every = f"both {noun}s" if n == 2 else f"all {pairs}"
        if mean == 0:
            return f"The two are equal in {every}: no difference was seen, and without spread no interval bounds it."
        difference = f"The difference is {signed(mean, unit)} in {every}, without the spread that an interval needs"
        return f"{difference}, and {p}: {verdict}." if verdict else f"{difference}; {p}, so this {tells}."
    interval = f"the interval {span_text(test.interval, unit, mean)}"
    capital = f"T{interval[1:]}"
    small = decision.p_holm is not None and decision.p_holm < SIGNIFICANCE
    if verdict:
        return f"{capital} excludes zero and {p}: {verdict}."
    if not test.excludes_zero:
        if small:
            return f"{capital} contains zero but {p}: the two disagree, so this {tells}."
        return f"{capital} contains zero and {p}, so this {tells}."
    return f"{capital}, of this comparison alone, excludes zero, but {p}, so this {tells}."


def _p_words(test: Test, decision: Decision, pairs: str) -> str:
    """The p that decides, named as what it is; or that so few pairs could show none."""
    over = f" after Holm over the {decision.tests} comparisons of this report"
    if test.smallest_p is not None and test.smallest_p >= SIGNIFICANCE:
        return f"{pairs} cannot show p < {p_text(test.smallest_p, 3)}"
    if decision.least is not None and decision.least >= SIGNIFICANCE:
        return f"{pairs} cannot show p < {p_text(decision.least)}{over} (p of this comparison alone: {p_text(test.p)})"
    if decision.tests > 1:
        alone = f"{pairs}; p of this comparison alone: {p_text(test.p)}"
        return f"the sign-flip p is {p_text(decision.p_holm)}{over} ({alone})"
    return f"the sign-flip p is {p_text(test.p)} ({pairs})"
