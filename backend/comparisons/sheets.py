"""Tables as text: Markdown, LaTeX (booktabs) and CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from common.terminal import printable

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # Characters that pdfLaTeX without further packages does not support.
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "→": r"$\rightarrow$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "‖": r"$\Vert$",
    "★": r"$\star$",
    "▲": r"$\bigtriangleup$",
    "▼": r"$\bigtriangledown$",
    "²": "$^2$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "γ": r"$\gamma$",
    "Δ": r"$\Delta$",
    "ε": r"$\varepsilon$",
    "μ": r"$\mu$",
    "τ": r"$\tau$",
    "χ": r"$\chi$",
}
_COLUMN_POINTS = 245
"""Width of a column of a paper with two columns. A wider table spans both."""
_PAGE_POINTS = 505
_BROKEN_POINTS = 170.0
"""Width of the first column of a table that would be wider than a page; longer texts are broken."""
_GAP_POINTS = 6.0
_NARROW, _WIDE = frozenset(" .,:;'()[]|/ijlftr"), frozenset("+−±→↑↓<>≤≥mwMW%")
"""Characters of Computer Modern that are about 2.7 and 6.6 pt wide at 8 pt; the others are about 4.25 pt wide."""
# Also after spaces, which some programs strip, and in the full-width forms of East Asian keyboards. A single per-cent
# sign is a unit.
_FORMULA = re.compile(r"\s*([=+\-@\uff1d\uff0b\uff0d\uff20|]|%(?!\Z))|[\t\n]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_BETWEEN_HYPHENS = re.compile("(?<=-)(?=-)")
_QUOTED = re.compile('"([^"]*)"')
_HAT = re.compile("(.)\u0302")
_MARKDOWN = re.compile(r"([\\`*_\[\]<>|#])")


@dataclass(frozen=True)
class Text:
    """The text of a cell."""

    text: str
    bold: bool = False


@dataclass(frozen=True)
class Sheet:
    """A table with its title and notes.

    Attributes:
        title: Caption.
        header: Texts of the header row.
        rows: Cells by row.
        numbers: Indices of the columns that are aligned to the right.
        notes: Sentences below the table.
        commented: Lines that become comments in LaTeX's source, and a block below the notes in Markdown.
        widths: Share of the line, in LaTeX, of columns whose texts are broken into several lines.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Text]]
    numbers: frozenset[int] = frozenset()
    notes: Sequence[str] = ()
    commented: Sequence[str] = ()
    widths: Mapping[int, float] = field(default_factory=dict)


def markdown(sheet: Sheet) -> str:
    """Return the sheet as GitHub's Markdown."""
    rule = ["---:" if index in sheet.numbers else "---" for index in range(len(sheet.header))]
    lines = [f"**{escape_markdown(sheet.title)}**", "", _row(map(escape_markdown, sheet.header)), _row(rule)]
    lines += [
        _row(f"**{escape_markdown(cell.text)}**" if cell.bold else escape_markdown(cell.text) for cell in cells)
        for cells in sheet.rows
    ]
    lines += [""] + [f"- {escape_markdown(note)}" for note in sheet.notes]
    if sheet.commented:
        lines += ["", "```text", *sheet.commented, "```"]
    return "\n".join(lines) + "\n"


def latex(sheet: Sheet) -> str:
    """Return the sheet as a table environment for the packages booktabs and threeparttable, every text escaped.

    The notes are below the table and not in its caption. A table that is wider than a column of a paper with two
    columns spans both. In one that is wider than a page, the texts of the first column are broken; if that is not
    enough, its columns are distributed over several tables, which repeat the first column.
    """
    parts = _pages(sheet)
    lines = ["% \\usepackage{booktabs,threeparttable}"]
    lines += [f"% {' '.join(line.split())}" for line in sheet.commented]
    label = f"tab:{_label(sheet.title)}"
    for number, part in enumerate(parts, 1):
        title = tex(sheet.title)
        if len(parts) == 1:
            lines += _table(part, f"{title}.", label)
        else:
            lines += _table(part, f"{title}, part {number} of {len(parts)}.", f"{label}-{number}")
    return "\n".join(lines) + "\n"


def _pages(sheet: Sheet) -> list[Sheet]:
    """Return a sheet as one or several that are not wider than a page; only the first has the notes."""
    if sheet.widths or _points(sheet) <= _PAGE_POINTS:
        return [sheet]
    widths = _column_points(sheet)
    first = min(widths[0], _BROKEN_POINTS)
    broken = {0: round(first / _PAGE_POINTS, 3)} if widths[0] > first else {}
    groups: list[list[int]] = [[]]
    left = _PAGE_POINTS - first
    for index, width in enumerate(widths[1:], 1):
        if groups[-1] and width + _GAP_POINTS > left:
            groups.append([])
            left = _PAGE_POINTS - first
        groups[-1].append(index)
        left -= width + _GAP_POINTS
    return [
        replace(
            sheet,
            header=[sheet.header[index] for index in (0, *group)],
            rows=[[row[index] for index in (0, *group)] for row in sheet.rows],
            numbers=frozenset(at for at, index in enumerate((0, *group)) if index in sheet.numbers),
            notes=() if number else sheet.notes,
            widths=broken,
        )
        for number, group in enumerate(groups)
    ]


def _table(sheet: Sheet, caption: str, label: str) -> list[str]:
    """Return the lines of a table environment."""
    environment = "table" if fits_column(sheet) else "table*"
    headings = (_heading(text, right=index in sheet.numbers) for index, text in enumerate(sheet.header))
    lines = [
        f"\\begin{{{environment}}}",
        "  \\centering",
        "  \\begin{threeparttable}",
        f"  \\caption{{{caption}}}",
        f"  \\label{{{label}}}",
        "  \\footnotesize",
        "  \\setlength{\\tabcolsep}{3pt}",
        f"  \\begin{{tabular}}{{@{{}}{''.join(_column(sheet, index) for index in range(len(sheet.header)))}@{{}}}}",
        "    \\toprule",
        f"    {' & '.join(headings)} \\\\",
        "    \\midrule",
    ]
    for cells in sheet.rows:
        parts = (f"\\textbf{{{tex(cell.text)}}}" if cell.bold else tex(cell.text) for cell in cells)
        line = " & ".join(parts)
        # At the start of a line LaTeX would read these as an argument of the command that ends the line before.
        lines.append(f"    {'{}' if line.startswith(('[', '*')) else ''}{line} \\\\")
    lines += ["    \\bottomrule", "  \\end{tabular}"]
    if sheet.notes:
        notes = (f"    \\item {'{}' if note.startswith('[') else ''}{tex(note)}" for note in sheet.notes)
        lines += ["  \\begin{tablenotes}[flushleft]", "    \\footnotesize", *notes, "  \\end{tablenotes}"]
    return [*lines, "  \\end{threeparttable}", f"\\end{{{environment}}}"]


def fits_column(sheet: Sheet) -> bool:
    """Return whether the table fits, in LaTeX, into a column of a paper with two columns."""
    return not sheet.widths and _points(sheet) <= _COLUMN_POINTS


def _points(sheet: Sheet) -> float:
    """Return about how wide the table is in LaTeX, by the longest text of each column."""
    if sheet.widths:
        return 0.0  # its texts are broken
    widths = _column_points(sheet)
    return sum(widths) + _GAP_POINTS * (len(widths) - 1)


def _column_points(sheet: Sheet) -> list[float]:
    headings = [_lines(heading) for heading in sheet.header]
    cells = [[cell.text for cell in row] for row in sheet.rows]
    return [
        max(map(_text_points, (*headings[index], *(row[index] for row in cells)))) for index in range(len(headings))
    ]


def _text_points(text: str) -> float:
    return sum(2.7 if sign in _NARROW else 6.6 if sign in _WIDE else 4.25 for sign in text)


def _lines(heading: str) -> list[str]:
    """Return a heading in up to two lines of about the same length."""
    words = heading.split()
    splits = ([" ".join(words[:at]), " ".join(words[at:])] for at in range(1, len(words)))
    return min(splits, key=lambda lines: max(map(len, lines)), default=[heading])


def _heading(text: str, *, right: bool) -> str:
    lines = " \\\\ ".join(tex(line) for line in _lines(text))
    return f"\\shortstack[{'r' if right else 'l'}]{{{lines}}}" if len(_lines(text)) > 1 else lines


def _column(sheet: Sheet, index: int) -> str:
    if index in sheet.widths:
        return f"p{{{sheet.widths[index]:g}\\linewidth}}"
    return "r" if index in sheet.numbers else "l"


def _label(title: str) -> str:
    """Return a title as a label, of letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:60]


def csv_text(records: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None, *, header: bool = True) -> str:
    """Return records as CSV: one line each under the names of all fields; full numbers, None empty, no formulas.

    Args:
        records: The records.
        names: The fields in their order; by default those of all records.
        header: Whether the first line has the names.
    """
    if names is None:
        names = list(dict.fromkeys(name for record in records for name in record))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if header:
        writer.writerow(map(_escape_formula, names))
    writer.writerows([_escape_formula(record.get(name, "")) for name in names] for record in records)
    return out.getvalue()


def _escape_formula(value: Any) -> Any:
    """Prefix a text that a spreadsheet would read as a formula with an apostrophe.

    Source: OWASP, "CSV Injection". A text that is a number is also a number for a spreadsheet, and stays unchanged.
    """
    if not isinstance(value, str):
        return value
    text = printable(value)  # a carriage return is not quoted, and would begin a new line
    return text if not _FORMULA.match(text) or _NUMBER.fullmatch(text) else f"'{text}"


def tex(text: str) -> str:
    """Escape a text for LaTeX."""
    # Two hyphens would be a dash, and a straight quotation mark always a closing one.
    parts = _BETWEEN_HYPHENS.split(" ".join(text.split()))
    shown = "{}".join("".join(_LATEX.get(character, character) for character in part) for part in parts)
    shown = _QUOTED.sub(r"``\1''", shown)
    return _HAT.sub(r"$\\hat{\1}$", shown)


def escape_markdown(text: str) -> str:
    """Escape a text for GitHub's Markdown, as one line."""
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def _row(parts: Any) -> str:
    return f"| {' | '.join(parts)} |"
