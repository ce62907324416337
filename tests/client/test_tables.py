"""Tables name the metric by which the task of the runs is judged."""

from __future__ import annotations

import pytest
from rich.console import Console

from client.progress import running_text
from client.rendering.comparisons import comparison_notes
from client.rendering.tables import render_experiment, result, result_title, runs_table
from core.protocol.public import SettingsChoice
from core.protocol.runs import RunSummary
from tests.client import fakes


def judged_by(headline: str, value: float) -> RunSummary:
    run = fakes.run_summary(total_steps=10, total_epochs=4, epoch=2.0)
    latest = {headline: next(iter(run.latest.values())).model_copy(update={"value": value})}
    return run.model_copy(update={"headline": headline, "latest": latest})


@pytest.mark.parametrize(
    ("headline", "title", "text"),
    [
        ("test/top1", "test accuracy", "41.23 %"),
        ("test/loss", "test cross-entropy (NLL)", "41.23 nats"),
        ("plugin/score", "plugin/score", "41.23"),
    ],
)
def test_result_has_the_title_and_the_unit_of_its_metric(headline: str, title: str, text: str) -> None:
    run = judged_by(headline, 41.234)
    assert result(run) == text
    assert [column.header for column in runs_table([run]).columns][6] == title
    assert running_text(run).endswith(f"{title} {text}")


def test_runs_of_several_tasks_have_results() -> None:
    assert result_title(["test/top1", "test/loss"]) == "result"
    assert result_title([]) == "result"


def test_teacher_and_target_of_a_comparison_have_the_unit_of_the_headline() -> None:
    comparison = fakes.comparison(metric="test/loss", unit="nats", headline_unit="%", teacher_top1=80.0, target=76.0)
    assert any(note.startswith("Teacher: 80.00 %; target 76.00 %") for note in comparison_notes(comparison))
    other = comparison.model_copy(update={"headline_unit": "points"})
    assert any(note.startswith("Teacher: 80.00 points; target 76.00 points") for note in comparison_notes(other))


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        (None, "The settings of the methods are chosen when all runs of the trials have ended."),
        (SettingsChoice(error="no trial of kd succeeded"), "no trial of kd succeeded"),
        (SettingsChoice(hash="f00d", sentences=["The choice has the hash f00d."]), "The choice has the hash f00d."),
    ],
    ids=["waiting", "failed", "chosen"],
)
def test_an_experiment_says_how_its_settings_are_chosen(choice: SettingsChoice | None, text: str) -> None:
    spec = fakes.spec().model_dump(mode="json") | ({} if choice else {"tune": {"trials": 8}})
    console = Console(width=200)
    with console.capture() as captured:
        console.print(render_experiment(fakes.experiment(choice=choice, spec=spec)))
    assert text in captured.get()
    with console.capture() as captured:
        console.print(render_experiment(fakes.experiment()))
    assert text not in captured.get()
