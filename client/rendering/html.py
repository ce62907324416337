"""Results as HTML, for a report and for notebooks. Every text is escaped."""

from __future__ import annotations

from collections.abc import Sequence

from client.referee import rule
from client.rendering import tables
from client.rendering.comparisons import comparison_notes, comparison_table
from common.formatting import share_text
from common.html_page import table as table
from common.html_page import text as text
from core.protocol.comparisons import Comparison
from core.protocol.public import Experiment, RunSummary


def result(comparison: Comparison) -> str:
    """Return a comparison: the referee's sentences, the table of the methods, and the notes."""
    content = comparison_table(comparison)
    titles = [
        "method",
        f"{content.value}, mean ± sd",
        "n",
        content.reach,
        content.difference,
        "p alone",
        "p after Holm",
    ]
    sentences = "".join(f"<li>{text(ruling.sentence)}</li>" for ruling in rule(comparison))
    notes = "".join(f"<li>{text(note)}</li>" for note in comparison_notes(comparison))
    return f"<ul>{sentences}</ul>{table(titles, content.rows)}<h4>Notes</h4><ul>{notes}</ul>"


def experiment(item: Experiment) -> str:
    """Return an experiment's progress and its runs."""
    counts = ", ".join(f"{count} {name}" for name, count in item.counts.model_dump().items() if count)
    line = f"{item.state}, {share_text(item.progress)}; {item.dataset}; {counts}"
    return f"<p><b>{text(item.name)}</b>: {text(line)}</p>{runs(item.runs)}"


def runs(items: Sequence[RunSummary]) -> str:
    """Return a table of runs."""
    rows = [
        [run.label, str(run.seed), run.state, tables.epochs(run), tables.result(run), run.reason[:200], run.id]
        for run in items
    ]
    title = tables.result_title(run.headline for run in items)
    return table(["method", "seed", "state", "epoch", title, "reason", "id"], rows)
