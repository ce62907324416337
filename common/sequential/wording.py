"""The decision on a comparison in words, the same in the terminal, over the API and in the dashboard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common.formatting import signed, span_text
from common.sequential.decision import Decision, Rule, Verdict

Named = Literal["better", "worse", "higher", "lower", "no difference", "cannot tell", "undecided"]


@dataclass(frozen=True)
class Ends:
    """The ends of an interval."""

    low: float
    high: float


def named(verdict: Verdict, better: str | None) -> Named:
    """Return a verdict as "better" or "worse" if the metric has a better direction; others unchanged."""
    if verdict not in ("higher", "lower") or better is None:
        return verdict
    return "better" if verdict == better else "worse"


def sentence(
    decision: Decision, rule: Rule, *, label: str, baseline: str, unit: str, better: str | None, comparisons: int
) -> str:
    """Return the decision in one sentence, with the numbers that it rests on.

    Args:
        decision: The decision.
        rule: When to stop.
        label: Label of the method.
        baseline: Label of the baseline.
        unit: Unit of the differences.
        better: The direction that is better; None if neither is.
        comparisons: Number of comparisons of the experiment.
    """
    if not decision.looks:
        return f"{label} against {baseline}: the first look is after {rule.first} seeds."
    margin = f"{rule.difference:g} {unit}".strip()
    last = decision.looks[-1]
    seen = f"after {decision.seeds} of at most {rule.most} seeds"
    if last.low is None or last.high is None:
        shown = "the newest seed gave no new pair"
    else:
        shown = f"the interval is {span_text(Ends(last.low, last.high), unit, last.mean)}"
    mean = f"the mean difference is {signed(last.mean, unit)}" if last.mean is not None else "there is no pair"
    verdict = named(decision.verdict, better)
    if decision.verdict in ("higher", "lower"):
        text = f"{label} is {verdict} than {baseline}: {seen} {shown}, and the exact sign-flip test agrees"
    elif decision.verdict == "no difference":
        text = (
            f"{label} and {baseline} do not differ by {margin} or more: {seen} {shown}, and the exact sign-flip test "
            "rejects both ends"
        )
    elif decision.verdict == "cannot tell":
        directions = "better or worse" if better else "higher or lower"
        text = (
            f"{decision.seeds} seeds cannot tell whether {label} is {directions} than {baseline}, or differs from it "
            f"by less than {margin}: {mean}, {shown}"
        )
    else:
        text = f"{label} against {baseline} is not decided {seen}: {mean}, {shown}"
    over = f" and {comparisons} comparisons" if comparisons > 1 else ""
    return f"{text} (error probability {100 * rule.alpha:g} % over all looks{over})."


def outrun(label: str, experiment: str) -> str:
    """Return that a method gets no more seeds because it is surely better in another experiment of the sweep."""
    return f"{label} gets no more seeds here: it is surely better in {experiment}."


def saved(runs: int, most_runs: int) -> str:
    """Return how many runs were not needed."""
    return f"{runs} of at most {most_runs} runs were trained: {most_runs - runs} were not needed."
