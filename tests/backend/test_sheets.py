"""Tables as text for other programs: LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import re

import pytest

from backend.comparisons.sheets import Sheet, Text, csv_text, latex, tex
from tests.backend.lab import Lab, spec, started


def test_latex_special_characters_are_escaped() -> None:
    rows = [[Text("[if] p\u0302 > ½"), Text("3")], [Text("*"), Text("−4 %")], [Text("[bold]", bold=True), Text("a_b")]]
    lines = latex(Sheet("50 %", ["Claim", "n"], rows, commented=["kd: runs 1\n2"])).splitlines()
    assert lines[0] == "% \\usepackage{booktabs,threeparttable}"
    assert lines[1] == "% kd: runs 1 2"
    assert "    {}[if] $\\hat{p}$ \\textgreater{} ½ & 3 \\\\" in lines
    assert "    {}* & $-$4 \\% \\\\" in lines
    assert "    \\textbf{[bold]} & a\\_b \\\\" in lines


def test_latex_notes_are_below_the_table_and_arrows_are_formulas() -> None:
    rows = [[Text("ECE (%) ↓"), Text("3.10 ± 0.20")], [Text("Accuracy (%) ↑"), Text("93.20 ± 1.06")]]
    text = latex(Sheet("digits: dkd", ["Metric", "dkd"], rows, frozenset({1}), ["[one] ↑: higher.", "Two."]))
    assert "\\caption{digits: dkd.}" in text
    assert "\\label{tab:digits-dkd}" in text
    assert "ECE (\\%) $\\downarrow$" in text
    assert "Accuracy (\\%) $\\uparrow$" in text
    table, notes = text.split("\\end{tabular}")
    assert "higher" not in table
    assert "\\item {}[one] $\\uparrow$: higher." in notes
    assert "\\begin{table}\n" in text
    for opened in re.findall(r"\\begin\{([\w*]+)\}", text):
        assert text.count(f"\\begin{{{opened}}}") == text.count(f"\\end{{{opened}}}") == 1


@pytest.mark.parametrize(
    ("columns", "environment", "tables"), [(2, "table", 1), (6, "table*", 1), (16, "table*", 2), (24, "table*", 3)]
)
def test_a_wide_latex_table_spans_both_columns_or_becomes_several(columns: int, environment: str, tables: int) -> None:
    header = ["Metric", *(f"method {index}" for index in range(1, columns))]
    cells = [Text("first"), *(Text(f"93.20 ± 1.{index:02d}") for index in range(1, columns))]
    text = latex(Sheet("t", header, [cells], frozenset(range(1, columns)), ["A note."]))
    assert text.count(f"\\begin{{{environment}}}\n") == text.count("    first & ") == tables
    assert [text.count(f"93.20 $\\pm$ 1.{index:02d}") for index in range(1, columns)] == [1] * (columns - 1)
    assert text.count("A note.") == 1
    labels = re.findall(r"\\label{(.*)}", text)
    assert labels == (["tab:t"] if tables == 1 else [f"tab:t-{number}" for number in range(1, tables + 1)])
    assert ("part 1 of" in text) == (tables > 1)


def test_long_texts_of_the_first_column_are_broken_if_the_table_would_not_fit() -> None:
    rows = [[Text("a long text " * 12), *[Text("93.20 ± 1.06")] * 4]]
    text = latex(Sheet("t", ["Metric", "a", "b", "c", "d"], rows))
    assert "\\begin{tabular}{@{}p{0.337\\linewidth}llll@{}}" in text
    assert text.count("\\begin{table*}") == 1


def test_options_and_quotations_are_not_ligatures_of_latex() -> None:
    assert tex('dkd compare --metric – "better" or "worse"') == "dkd compare -{}-metric -- ``better'' or ``worse''"


def test_every_character_of_a_latex_table_is_known_to_pdflatex() -> None:
    assert tex("↑ ↓ → ± − – ≤ ≥ Δ ε a\u00a0b").isascii()


FORMULAS = [
    "=1+1",
    "+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\n=1",
    "  =1",
    "\uff1d1",
    "%=1",
    "-",
    "=",
    "+1 2",
]


@pytest.mark.parametrize("text", FORMULAS)
def test_csv_cells_are_never_formulas(text: str) -> None:
    header, row = csv.reader(io.StringIO(csv_text([{text: text, "b": 1}]), newline=""))
    assert header == [f"'{text}", "b"]
    assert row == [f"'{text}", "1"]


def test_carriage_return_starts_no_csv_line() -> None:
    assert csv_text([{"a": "x\r=1+1", "b": "\r=1"}]) == "a,b\nx\\r=1+1,\\r=1\n"


def test_csv_numbers_are_not_escaped() -> None:
    values = {
        "a": -1.5,
        "b": -3,
        "c": "-0.25",
        "d": "+1e-5",
        "e": None,
        "f": "a-b",
        "g": "1=1",
        "h": "%",
        "i": float("-inf"),
    }
    _, row = csv.reader(io.StringIO(csv_text([values])))
    assert row == ["-1.5", "-3", "-0.25", "+1e-5", "", "a-b", "1=1", "%", "-inf"]


def test_exported_names_and_reasons_are_never_formulas(lab: Lab) -> None:
    lab.register()
    made = lab.submit(spec("=HYPERLINK(1)", teacher=None, methods=[{"name": "ce", "label": "=1+1"}]))
    claim = lab.claim()
    event = {"type": "metrics", "step": 1, "epoch": 1.0, "elapsed": 1.0, "values": {"=cmd|x": -1.0}}
    lab.events(claim, started(1), {"seq": 2, "time": 1.0, "event": event})
    lab.finish(claim, "failed", reason="@SUM(A1)")
    query = {"experiment": made["id"], "format": "csv"}
    text = lab.admin.get("/api/v1/exports/experiment", params=query).text
    cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
    assert {"'=HYPERLINK(1)", "'=1+1", "'=cmd|x", "'@SUM(A1)", "-1.0"} <= set(cells)
    assert not [cell for cell in cells if cell.startswith(("=", "@", "+"))]
