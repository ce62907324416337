"""Rows of the Results page, as pure functions: the result table, published values beside own results, and claims."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from urllib.parse import urlencode

from common.formatting import NOTHING, mean_text, signed, value_text
from core.protocol.comparisons import PaperClaim, PublishedRow, PublishedValue, ResultTable, TableCell, TableRow
from dashboard.markup import escape

_MARKS = {"holds": ":green-badge[✓ holds]", "does not hold": ":red-badge[✕ does not hold]"}
_NO_BREAK_SPACE = "\u00a0"


def table_rows(table: ResultTable) -> list[dict[str, str]]:
    """Return one row per setting and one column per method, in Markdown.

    A value is bold if the backend's verdict is better than the baseline, and marked ↓ if it is worse.
    """
    rows = []
    for row in table.rows:
        cells = {cell.label: cell for cell in row.cells}
        shown = {escape(label): cell_text(cells[label]) if label in cells else NOTHING for label in table.methods}
        teacher = value_text(row.teacher_top1, decimals=2)
        rows.append({"Setting": escape(row.title), "Teacher": teacher + brackets(row.published), **shown})
    return rows


def cell_text(cell: TableCell) -> str:
    """Return ``mean ± sd (n)`` with a link to the runs, the number of missing runs and published values."""
    missing = f" · {len(cell.missing)}{_NO_BREAK_SPACE}missing" if cell.missing else ""
    if cell.mean is None:
        return NOTHING + missing + brackets(cell.published)
    text = f"{mean_text(cell.mean, cell.sd)} ({cell.n})".replace(" ", _NO_BREAK_SPACE)
    if cell.verdict == "better":
        text = f"**{text}**"
    elif cell.verdict == "worse":
        text += f"{_NO_BREAK_SPACE}↓"
    linked = f"[{text}](compare?{urlencode([('run', run) for run in cell.run_ids])})" if cell.run_ids else text
    return linked + missing + brackets(cell.published)


def brackets(published: Sequence[PublishedValue]) -> str:
    values = dict.fromkeys(value_text(item.value, decimals=2) for item in published)
    return f" \\[{', '.join(values)}\\]" if values else ""


def missing_lines(row: TableRow) -> list[str]:
    """Return the missing seeds of a row by method and reason, as lines of Markdown."""
    lines = []
    for cell in row.cells:
        by_reason: dict[str, list[int]] = {}
        for item in cell.missing:
            by_reason.setdefault(item.reason or item.state, []).append(item.seed)
        for reason, seeds in by_reason.items():
            word = "seed" if len(seeds) == 1 else "seeds"
            lines.append(f"{escape(cell.label)}: {word} {', '.join(map(str, seeds))} ({escape(reason)})")
    return lines


def by_source(rows: Iterable[PublishedRow]) -> dict[str, list[PublishedRow]]:
    """Group published rows by source, in their order."""
    groups: dict[str, list[PublishedRow]] = {}
    for row in rows:
        groups.setdefault(row.source, []).append(row)
    return groups


def published_rows(rows: Sequence[PublishedRow], table: ResultTable, methods: Sequence[str]) -> list[dict[str, str]]:
    """Return published values, one column per method, followed by the means of this lab for the same networks.

    Args:
        rows: Rows of one source.
        table: The result table of this lab.
        methods: Names of the catalog's methods, in the order of the columns.
    """
    given = dict.fromkeys(value.method for row in rows for value in row.values)
    columns = [name for name in dict.fromkeys(("teacher", *methods, *given)) if name in given]
    cells = []
    for row in rows:
        networks = escape(f"{row.teacher} → {row.student}")
        shown: dict[str, str] = {"Data set": escape(row.dataset), "Teacher → student": networks}
        for name in columns:
            value = _value(row, name)
            shown[escape(name)] = value_text(value.value if value else None, decimals=2)
        ours, base = _value(row, row.method), _value(row, row.baseline)
        if ours and base:
            shown[escape(f"{row.method} − {row.baseline}")] = signed(ours.value - base.value, decimals=2)
        shown["This lab"] = _results_here(row, table)
        cells.append(shown)
    return cells


def _value(row: PublishedRow, method: str) -> PublishedValue | None:
    return next((item for item in row.values if item.method == method), None)


def _results_here(row: PublishedRow, table: ResultTable) -> str:
    """Return the means of this lab for these networks on this data set, with any training settings."""
    setting = (row.dataset, row.teacher, row.student)
    results = [
        f"{escape(cell.label)} {mean_text(cell.mean)} ({cell.n})"
        + (f", {escape(table_row.images)}" if table_row.images else "")
        for table_row in table.rows
        if (table_row.dataset, table_row.teacher, table_row.student) == setting
        for cell in table_row.cells
        if cell.mean is not None
    ]
    return ", ".join(results) or NOTHING


def published_runs_caption(rows: Sequence[PublishedRow]) -> str:
    """Return the number of averaged runs and the epoch of each method's published values, if they are stated."""
    stated = {
        (item.method, item.repeats, item.epoch) for row in rows for item in row.values if item.repeats or item.epoch
    }
    parts = []
    for method, repeats, epoch in sorted(stated, key=str):
        mean = f"mean of {repeats} runs" if repeats and repeats > 1 else "one run" if repeats else "repeats not stated"
        epoch_text = ", best test epoch" if epoch == "oracle" else ", last epoch" if epoch else ", epoch not stated"
        parts.append(f"{escape(method)}: {mean}{epoch_text}")
    return "; ".join(parts) + "." if parts else "Repeats and epoch are not stated."


def claim_lines(claims: Sequence[PaperClaim]) -> list[tuple[str, list[str]]]:
    """Return the title of each claim in order, with the verdicts on its cases as lines of Markdown."""
    grouped: dict[int, tuple[str, list[str]]] = {}
    for claim in claims:
        _, lines = grouped.setdefault(claim.number, (f"{claim.number}. {escape(claim.claim)}", []))
        pairs = f" ({claim.n} pair{'' if claim.n == 1 else 's'})" if claim.n else ""
        against = f"{claim.label} against {claim.baseline}{pairs}" if claim.label else ""
        case = escape(" · ".join(part for part in (claim.case, against) if part))
        mark = _MARKS.get(claim.verdict, f":gray-badge[? {escape(claim.verdict)}]")
        lines.append(f"{mark} {f'**{case}:** ' if case else ''}{escape(claim.reason)}")
    return [grouped[number] for number in sorted(grouped)]
