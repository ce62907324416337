"""The referee: what the seeds of a comparison support, for programs that keep a change if its number is better.

A loop that keeps every higher number keeps noise. The referee turns the verdicts of a comparison into one decision per
method. It is "keep" only if the comparison is complete and its verdict, which is corrected over the whole report, is
"better".
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from common.formatting import SIGNIFICANCE
from core.protocol.comparisons import Comparison, PairedDifference
from core.protocol.result_tables import ResultTable

Decision = Literal["keep", "discard", "not supported", "wait"]
"""keep: better than the baseline. discard: worse. not supported: the seeds do not show a better one. wait: runs have
not ended.
"""


class Ruling(BaseModel):
    """The decision on one method against the baseline."""

    model_config = ConfigDict(frozen=True)

    label: str
    baseline: str
    decision: Decision = Field(description='Only "keep" permits replacing the baseline by this method.')
    sentence: str = Field(description="The decision and the evidence in plain words.")


def rule(comparison: Comparison) -> list[Ruling]:
    """Return the decision on each method of a comparison."""
    return [_ruling(comparison, pair) for pair in comparison.paired]


def table_sentence(table: ResultTable) -> str:
    """Return the conclusion that the cells of a table over many experiments support, as one sentence."""
    cells = [(row.title, cell) for row in table.rows for cell in row.cells]
    better = [f"{cell.label} on {title}" for title, cell in cells if cell.verdict == "better"]
    scope = f"after Holm over the {table.tests} comparison{'' if table.tests == 1 else 's'} of this table"
    if not better:
        return f"No method is better than its baseline {scope}: keep the baselines."
    return f"Better than their baseline {scope}: {', '.join(better)}. No other cell supports a change."


def seeds_for_a_verdict(tests: int) -> int:
    """Return the smallest number of pairs that can give a verdict in a report of ``tests`` comparisons.

    The smallest two-sided sign-flip p of n pairs is 2^(1−n), and Holm's correction multiplies the smallest p by the
    number of comparisons.
    """
    pairs = 1
    while max(tests, 1) * 2.0 ** (1 - pairs) >= SIGNIFICANCE:
        pairs += 1
    return pairs


def _ruling(comparison: Comparison, pair: PairedDifference) -> Ruling:
    decision, opening = _decide(comparison, pair)
    sentences = [opening, pair.sentence]
    needed = seeds_for_a_verdict(comparison.tests)
    if decision == "not supported" and pair.sign_flip_p is not None and pair.units < needed:
        sentences.append(f"No verdict is possible below {needed} {pair.unit}s in this report.")
    if pair.missing and decision != "wait":
        missing = f"{len(pair.missing)} of {pair.n + len(pair.missing)} planned pairs"
        sentences.append(f"{missing} have no value, so the other pairs may be a selection.")
    return Ruling(label=pair.label, baseline=pair.baseline, decision=decision, sentence=" ".join(sentences))


def _decide(comparison: Comparison, pair: PairedDifference) -> tuple[Decision, str]:
    """Return the decision on a pair, and the sentence that states it."""
    label, baseline = pair.label, pair.baseline
    if not comparison.complete:
        return "wait", "Not every run has ended: decide nothing yet."
    match pair.verdict:
        case "better":
            return "keep", f"The seeds support {label} over {baseline}."
        case "worse":
            return "discard", f"Discard {label}: it is worse than {baseline}."
        case "higher" | "lower":
            return "not supported", f"Keep {baseline}: {comparison.metric} has no better side, so it cannot decide."
        case "unclear":
            return "not supported", f"Keep {baseline}: the seeds do not support {label} over it."
    return "not supported", f"Keep {baseline}: {label} was not tested against it."
