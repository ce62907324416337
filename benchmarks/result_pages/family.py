"""Tests over paired values that a page adds to its comparison: one family, one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backend.comparisons import verdicts
from backend.comparisons.sheets import escape_markdown
from backend.comparisons.statistics import Better
from common.formatting import SIGNIFICANCE, difference_text, p_text


@dataclass(frozen=True)
class Row:
    """One quantity that is tested against zero.

    Attributes:
        subject: What it is.
        values: One number per pair.
        better: The direction that is better; None if neither is.
    """

    subject: str
    values: Sequence[float]
    better: Better = None

    @property
    def test(self) -> verdicts.Test:
        """The exact sign-flip test of the values."""
        return verdicts.Test.of(self.values, self.better)


def decided(rows: Sequence[Row]) -> list[verdicts.Decision]:
    """Return the decision on each row, over all of them."""
    return verdicts.decide([row.test for row in rows])


def table(rows: Sequence[Row], quantity: str, unit: str) -> str:
    """Return the rows as a table in Markdown, with a sentence if they have too few pairs for any verdict.

    Args:
        rows: The family of tests.
        quantity: Heading of the column of the means.
        unit: Unit of the values.
    """
    lines = [
        f"| | {quantity}{f' ({unit})' if unit else ''} | n | p | p (Holm, {len(rows)} tests) | verdict |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for row, decision in zip(rows, decided(rows), strict=True):
        test = row.test
        lines.append(
            f"| {escape_markdown(row.subject)} | {difference_text(test.mean, test.interval)} | {test.n} | "
            f"{p_text(test.p)} | {p_text(decision.p_holm)} | {_word(decision)} |"
        )
    return "\n".join([*lines, *_too_few(rows)])


def _too_few(rows: Sequence[Row]) -> list[str]:
    """Return a sentence if no test of the family could have a verdict, however large the differences are."""
    bounds = [decision.smallest_p_holm for decision in decided(rows) if decision.smallest_p_holm is not None]
    if not bounds or min(bounds) < SIGNIFICANCE:
        return []
    pairs = max(row.test.n for row in rows)
    text = f"No row can have a verdict: over {len(rows)} tests {pairs} pairs cannot show p < {p_text(min(bounds))}"
    return ["", escape_markdown(f"{text}, however large a difference is. More seeds could.")]


def sentences(rows: Sequence[Row], decisions: Sequence[verdicts.Decision], unit: str) -> str:
    """Return what each row shows, as a list in Markdown."""
    return "\n".join(
        f"- {escape_markdown(row.subject)}: {_shown(row.test, decision, unit)}."
        for row, decision in zip(rows, decisions, strict=True)
    )


def _shown(test: verdicts.Test, decision: verdicts.Decision, unit: str) -> str:
    numbers = difference_text(test.mean, test.interval, unit)
    if decision.verdict in (None, "unclear"):
        return f"{numbers}, which is not shown to differ from zero"
    return f"{numbers} (p {p_text(decision.p_holm)} after Holm's correction)"


def _word(decision: verdicts.Decision) -> str:
    return "not shown" if decision.verdict in (None, "unclear") else str(decision.verdict)
