"""Tables as text: Markdown, LaTeX (booktabs) and CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    "↓": r"$\downarrow$",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "‖": r"$\Vert$",
    "²": "$^2$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "γ": r"$\gamma$",
    "Δ": r"$\Delta$",
    "ε": r"$\varepsilon$",
    "μ": r"$\mu$",
    "τ": r"$\tau$",
}
# Also after spaces, which some programs strip, and in the full-width forms of East Asian keyboards. A single per-cent
# sign is a unit.
_FORMULA = re.compile(r"\s*([=+\-@\uff1d\uff0b\uff0d\uff20|]|%(?!\Z))|[\t\n]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
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
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Text]]
    numbers: frozenset[int] = frozenset()
    notes: Sequence[str] = ()
    commented: Sequence[str] = ()


def markdown(sheet: Sheet) -> str:
    """Return the sheet as GitHub's Markdown."""
    rule = ["---:" if index in sheet.numbers else "---" for index in range(len(sheet.header))]
    lines = [f"**{_escape_markdown(sheet.title)}**", "", _row(map(_escape_markdown, sheet.header)), _row(rule)]
    lines += [
        _row(f"**{_escape_markdown(cell.text)}**" if cell.bold else _escape_markdown(cell.text) for cell in cells)
        for cells in sheet.rows
    ]
    lines += [""] + [f"- {_escape_markdown(note)}" for note in sheet.notes]
    if sheet.commented:
        lines += ["", "```text", *sheet.commented, "```"]
    return "\n".join(lines) + "\n"


def latex(sheet: Sheet) -> str:
    """Return the sheet as a table environment for ``\\usepackage{booktabs}``, every text escaped."""
    columns = "".join("r" if index in sheet.numbers else "l" for index in range(len(sheet.header)))
    lines = [
        "% \\usepackage{booktabs}",
        *(f"% {' '.join(line.split())}" for line in sheet.commented),
        "\\begin{table}",
        "  \\centering",
        f"  \\caption{{{' '.join(tex(text) for text in (f'{sheet.title}.', *sheet.notes))}}}",
        f"  \\begin{{tabular}}{{{columns}}}",
        "    \\toprule",
        f"    {' & '.join(map(tex, sheet.header))} \\\\",
        "    \\midrule",
    ]
    for cells in sheet.rows:
        parts = (f"\\textbf{{{tex(cell.text)}}}" if cell.bold else tex(cell.text) for cell in cells)
        line = " & ".join(parts)
        # At the start of a line LaTeX would read these as an argument of the command that ends the line before.
        lines.append(f"    {'{}' if line.startswith(('[', '*')) else ''}{line} \\\\")
    lines += ["    \\bottomrule", "  \\end{tabular}", "\\end{table}"]
    return "\n".join(lines) + "\n"


def csv_text(records: Sequence[Mapping[str, Any]]) -> str:
    """Return records as CSV: one line each under the names of all fields; full numbers, None empty, no formulas."""
    names = list(dict.fromkeys(name for record in records for name in record))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
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
    shown = "".join(_LATEX.get(character, character) for character in " ".join(text.split()))
    return _HAT.sub(r"$\\hat{\1}$", shown)


def _escape_markdown(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def _row(parts: Any) -> str:
    return f"| {' | '.join(parts)} |"
