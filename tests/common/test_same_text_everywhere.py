"""The command line, the dashboard and the exports show comparisons and durations in the same words."""

from __future__ import annotations

from rich.console import Console, RenderableType

from backend.comparisons import render, sheets
from client.rendering.comparisons import render_comparison
from client.rendering.tables import runs_table
from core.protocol.comparisons import Comparison
from dashboard.lists import row_text
from tests.client import fakes

_NO_BREAK_SPACE = "\u00a0"


def _printed(what: RenderableType) -> str:
    console = Console(width=400, color_system=None)
    with console.capture() as captured:
        console.print(what)
    return captured.get()


def _comparison() -> Comparison:
    comparison = fakes.comparison()
    first, second = comparison.groups
    assert second.convergence is not None
    reached = second.convergence.model_copy(update={"median_seconds": 7830.0, "median_gpu_seconds": None})
    return comparison.model_copy(update={"groups": [first, second.model_copy(update={"convergence": reached})]})


def test_comparison_has_the_same_text_in_cli_dashboard_and_markdown() -> None:
    comparison = _comparison()
    pair = comparison.paired[0]
    dashboard = row_text.comparison_rows(comparison)[1]
    markdown = sheets.markdown(render.comparison_sheet(comparison)).replace("\\", "")
    terminal = _printed(render_comparison(comparison))
    shown = {header: text.replace(_NO_BREAK_SPACE, " ") for header, text in dashboard.items()}
    names = [name for name in shown if name.startswith(("Mean", "n", "Epochs", "Difference", "95 %"))]
    assert len(names) == 5
    for name in names:
        assert shown[name] in terminal, name
        assert shown[name] in markdown, name
    assert pair.interval is not None
    assert "percentage points" in terminal
    assert "percentage points" in markdown
    assert any("percentage points" in name for name in shown)


def test_target_has_the_same_text_in_cli_dashboard_and_markdown() -> None:
    for comparison, target in (
        (_comparison(), "95 % of the teacher"),
        (_comparison().model_copy(update={"absolute_target": True, "target": 93.125}), "93.12 %"),
    ):
        assert f"Epochs to {target}" in row_text.comparison_rows(comparison)[0]
        assert f"Epochs to {target}" in sheets.markdown(render.comparison_sheet(comparison)).replace("\\", "")
        assert f"epochs to {target}" in _printed(render_comparison(comparison))


def test_duration_has_the_same_text_in_cli_and_dashboard() -> None:
    started = fakes.NOW
    run = fakes.run_summary(1, state="succeeded", started_at=started, ended_at=started.replace(year=started.year + 1))
    dashboard = row_text.run_rows([run], run.ended_at or started, {run.headline: "Result"})[0]["Duration"]
    assert dashboard.startswith("365 d") or dashboard.startswith("366 d")
    assert "2 h 10 min" in _printed(render_comparison(_comparison()))
    assert run.id in _printed(runs_table([run]))
