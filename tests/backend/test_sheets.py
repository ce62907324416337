"""Tables as text that other programs read."""

from __future__ import annotations

from backend.comparisons.sheets import Sheet, Text, latex


def test_what_latex_would_take_for_its_own_is_text() -> None:
    rows = [[Text("[if] p\u0302 > ½"), Text("3")], [Text("*"), Text("−4 %")], [Text("[bold]", bold=True), Text("a_b")]]
    lines = latex(Sheet("50 %", ["Claim", "n"], rows, commented=["kd: runs 1\n2"])).splitlines()
    assert lines[1] == "% kd: runs 1 2"
    assert "    {}[if] $\\hat{p}$ \\textgreater{} ½ & 3 \\\\" in lines
    assert "    {}* & $-$4 \\% \\\\" in lines
    assert "    \\textbf{[bold]} & a\\_b \\\\" in lines
