"""Pure parts of the Experiment page: the table of runs, differences of specs, the lineage, and notes as HTML."""

from __future__ import annotations

from datetime import UTC, datetime
from xml.etree import ElementTree

import pytest

from common.formatting import NOTHING
from core.protocol.public import MetricValue, RunSummary
from dashboard.charts.lineage import Box, Stage, picture
from dashboard.curves.curve import Curve, RunCurves
from dashboard.forms.spec_diff import difference_rows
from dashboard.lists import experiment_runs
from dashboard.markup import markdown_html

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def run(**changes: object) -> RunSummary:
    given = {
        "id": "run-1",
        "label": "kd",
        "role": "student",
        "experiment_id": "e",
        "experiment": "first",
        "state": "running",
        "dataset": "digits",
        "model": "small_cnn",
        "method": "kd",
        "seed": 3,
        "step": 5,
        "total_steps": 20,
        "headline": "test/top1",
        "latest": {"test/top1": MetricValue(value=90.0, step=5, epoch=1.0)},
        "created_at": NOW,
    }
    return RunSummary.model_validate(given | changes)


def curve(values: list[float]) -> RunCurves:
    steps = list(range(len(values)))
    places = [float(step) for step in steps]
    drawn = Curve("test/top1", steps, places, places, values, values, values)
    return RunCurves({"test/top1": drawn})


def test_row_has_the_chosen_columns_a_link_and_a_sparkline() -> None:
    curves = {"run-1": curve([10.0, float("nan"), 30.0])}
    [row] = experiment_runs.rows(
        [run()], curves, ["State", "Seed", "Progress"], {"test/top1": "Accuracy (%)"}, NOW, sparklines=True
    )
    assert row == {
        "Run": "run?id=run-1",
        "State": "▶ running",
        "Seed": 3,
        "Progress": 25,
        "Accuracy (%)": 30.0,
        "Accuracy (%) over epochs": [10.0, 30.0],
    }


def test_metric_that_was_not_measured_is_empty() -> None:
    [row] = experiment_runs.rows([run()], {}, [], {"test/top1": "Accuracy (%)"}, NOW, sparklines=False)
    assert row == {"Run": "run?id=run-1", "Accuracy (%)": None}


@pytest.mark.parametrize("count", [1, 59, 60, 61, 1000])
def test_sparkline_keeps_the_first_and_the_last_value(count: int) -> None:
    values = [float(number) for number in range(count)]
    short = experiment_runs.thinned(values)
    assert (short[0], short[-1]) == (values[0], values[-1])
    assert len(short) == min(count, 60)
    assert short == sorted(short)


def test_differences_of_specs_match_methods_by_label() -> None:
    first = {
        "name": "a",
        "training": {"epochs": 3, "optimizer": {"lr": 0.1}},
        "methods": [{"label": "kd", "params": {"temperature": 4}}, {"label": "ce", "params": {}}],
        "seeds": [0, 1],
    }
    second = {
        "name": "b",
        "notes": "other",
        "training": {"epochs": 3, "optimizer": {"lr": 0.2}},
        "methods": [{"label": "ce", "params": {}}, {"label": "kd", "params": {"temperature": 2}}],
        "seeds": [0],
        "priority": 1,
    }
    assert difference_rows(first, second, ("a", "b")) == [
        {"Field": "training.optimizer.lr", "a": "0.1", "b": "0.2"},
        {"Field": "methods.kd.params.temperature", "a": "4", "b": "2"},
        {"Field": "seeds", "a": "[0, 1]", "b": "[0]"},
        {"Field": "priority", "a": NOTHING, "b": "1"},
    ]
    assert difference_rows(first, first, ("a", "b")) == []


def test_copy_that_keeps_its_teacher_differs_only_in_what_was_changed() -> None:
    first = {"teacher": {"model": "resnet8", "training": None}, "training": {"epochs": 3, "batch_size": 64}}
    copy = {
        "teacher": {"model": "resnet8", "training": {"epochs": 3, "batch_size": 64}},
        "training": {"epochs": 6, "batch_size": 64},
    }
    assert difference_rows(first, copy, ("a", "b")) == [{"Field": "training.epochs", "a": "3", "b": "6"}]


def test_picture_has_a_link_per_box_and_escapes_its_text() -> None:
    stages = [
        Stage("Data", [Box("digits", link="runs?dataset=digits")]),
        Stage("Teacher", []),
        Stage("S", [Box("<b>")]),
    ]
    root = ElementTree.fromstring(picture(stages))
    assert [item.text for item in root.iter("h4")] == ["Data", "S"]
    assert [item.get("href") for item in root.iter("a")] == ["runs?dataset=digits"]
    assert [item.text for item in root.iter("b")] == ["digits", "<b>"]


def test_notes_have_markdown_without_html_and_pictures() -> None:
    shown = markdown_html("# Why\n\n- **one**\n- [page](https://example.org)\n\n| a | b |\n|---|---|\n| 1 | 2 |")
    for part in ("<h1>Why</h1>", "<strong>one</strong>", 'href="https://example.org"', "<td>1</td>"):
        assert part in shown


@pytest.mark.parametrize(
    "text",
    [
        "![p](http://evil.example/p.png)",
        "<img src=http://evil.example/i.png onerror=x>",
        "<script>x</script>",
        "[l](javascript:alert(1))",
        "[l](data:text/html,x)",
        "[l]: javascript:alert(1)\n\n[l]",
    ],
)
def test_notes_cannot_contain_code_or_load_anything(text: str) -> None:
    root = ElementTree.fromstring(f"<div>{markdown_html(text)}</div>")
    tags = {item.tag for item in root.iter()}
    assert tags <= {"div", "p", "a"}
    assert all(str(item.get("href")).startswith("http://evil.example") for item in root.iter("a"))
