"""Results as HTML, for a report and for notebooks. Every text is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from client.referee import rule
from client.rendering import tables
from client.rendering.comparisons import comparison_notes, comparison_table
from common.formatting import share_text
from common.terminal import printable
from core.protocol.comparisons import Comparison
from core.protocol.public import Experiment, RunSummary


def text(value: str) -> str:
    """Return a text in which no character is markup, and none is hidden."""
    return escape(printable(value))


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of texts."""
    head = "".join(f"<th>{text(title)}</th>" for title in titles)
    body = "".join(f"<tr>{''.join(f'<td>{text(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


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
