"""Rows of the Results page, as pure functions: the result table and the claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlencode

from common.formatting import NOTHING, mean_text, value_text
from core.protocol.comparisons import PaperClaim
from core.protocol.result_tables import PublishedValue, ResultTable, TableCell, TableRow
from dashboard import families
from dashboard.markup import escape

_MARKS = {"holds": ":green-badge[✓ holds]", "does not hold": ":red-badge[✕ does not hold]"}
_NO_BREAK_SPACE = "\u00a0"
_MAX_LINKS = 8
"""Links to experiments in one cell."""


def table_rows(table: ResultTable, family_of: Mapping[str, str]) -> list[dict[str, str]]:
    """Return one row per setting and one column per method, in Markdown; many methods are rows, family by family.

    A value is bold if the backend's verdict is better than the baseline, and marked ↓ if it is worse.

    Args:
        table: The table.
        family_of: Family of each method of the catalog, by name.
    """
    if len(table.methods) > families.MANY:
        return _method_rows(table, family_of)
    rows = []
    for row in table.rows:
        cells = {cell.label: cell for cell in row.cells}
        shown = {escape(label): cell_text(cells[label]) if label in cells else NOTHING for label in table.methods}
        rows.append({"Setting": _setting(row), "Teacher": _teacher(row), **shown})
    return rows


def _method_rows(table: ResultTable, family_of: Mapping[str, str]) -> list[dict[str, str]]:
    """Return one row per method and one column per setting, as the tables of papers have them."""
    methods = {cell.label: cell.method for row in table.rows for cell in row.cells}
    kinds = {label: families.Kind(name, families.family_of(name, family_of)) for label, name in methods.items()}
    cells = {(row.title, cell.label): cell for row in table.rows for cell in row.cells}
    rows = [{"Family": "", "Method": "teacher", **{escape(row.title): _teacher(row) for row in table.rows}}]
    for family, labels in families.grouped(table.methods, kinds).items():
        for index, label in enumerate(labels):
            in_settings = {
                escape(row.title): cell_text(cell) if (cell := cells.get((row.title, label))) else NOTHING
                for row in table.rows
            }
            title = escape(families.family_title(family)) if index == 0 else ""
            rows.append({"Family": title, "Method": escape(label), **in_settings})
    return rows


def _setting(row: TableRow) -> str:
    """Return the title of a row with links to the pages of its experiments."""
    addresses = [f"experiment?{urlencode({'id': name})}" for name in row.experiments]
    if len(addresses) == 1:
        return f"[{escape(row.title)}]({addresses[0]})"
    numbered = " ".join(f"[{number}]({address})" for number, address in enumerate(addresses[:_MAX_LINKS], 1))
    return f"{escape(row.title)} · {numbered}" if addresses else escape(row.title)


def _teacher(row: TableRow) -> str:
    return value_text(row.teacher_top1, decimals=2) + brackets(row.published)


def cell_text(cell: TableCell) -> str:
    """Return ``mean ± sd (n)`` with a link to the runs, the numbers of runs without a value and published values."""
    to_come = sum(item.to_come for item in cell.missing)
    counts = ((len(cell.missing) - to_come, "missing"), (to_come, "to come"))
    missing = "".join(f" · {count} {word}".replace(" ", _NO_BREAK_SPACE) for count, word in counts if count)
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
    values = dict.fromkeys(item.text for item in published)
    return f" \\[{', '.join(values)}\\]" if values else ""


def missing_count(row: TableRow) -> int:
    """Return the number of values that are missing and that no run will bring."""
    return sum(not item.to_come for cell in row.cells for item in cell.missing)


def missing_lines(row: TableRow) -> list[str]:
    """Return the missing seeds of a row by method and reason, as lines of Markdown, without those that may come."""
    lines = []
    for cell in row.cells:
        by_reason: dict[str, list[int]] = {}
        for item in (item for item in cell.missing if not item.to_come):
            by_reason.setdefault(item.reason or item.state, []).append(item.seed)
        for reason, seeds in by_reason.items():
            word = "seed" if len(seeds) == 1 else "seeds"
            lines.append(f"{escape(cell.label)}: {word} {', '.join(map(str, seeds))} ({escape(reason)})")
    return lines


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
