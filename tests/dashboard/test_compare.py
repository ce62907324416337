"""The Compare page beyond one experiment's curves: several experiments, single runs, axes, the other metrics."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

from tests.dashboard.conftest import charts, tables, texts, visit
from tests.dashboard.fakes import FakeBackend, digits_spec


@pytest.fixture
def done(backend: FakeBackend) -> FakeBackend:
    """Two finished experiments that differ in their seeds alone, and one of another student."""
    backend.submit(digits_spec())
    backend.submit(digits_spec(name="more seeds", seeds=[3, 4]))
    backend.submit(digits_spec(name="other student", student={"model": "resnet8"}))
    for run in list(backend.runs.values()):
        backend.advance(run.id, 30)
    return backend


def several(*names: str, **more: str) -> AppTest:
    return visit("compare", experiment=list(names), **more)  # type: ignore[arg-type]


def test_experiments_that_differ_in_seeds_are_one_comparison(done: FakeBackend) -> None:
    app = several("exp-0001", "exp-0002")
    assert not app.exception
    assert "n = 5 when all runs are done" in texts(app)
    assert any("forest" in key for key in charts(app))
    assert "Fidelity, calibration, collapse, robustness" in texts(app)


def test_experiments_that_differ_in_more_are_drawn_and_not_tested(done: FakeBackend) -> None:
    app = several("exp-0001", "exp-0003")
    assert not app.exception
    assert "cannot be tested together" in texts(app)
    assert "differ in student.model" in texts(app)
    assert not any("forest" in key for key in charts(app))
    assert any(key.startswith("compare.") for key in charts(app))


def test_single_runs_are_drawn_and_lead_to_their_pages(done: FakeBackend) -> None:
    app = visit("compare", run=["run-0001-001", "run-0001-002"])  # type: ignore[arg-type]
    assert not app.exception
    assert "Comparing **2 runs** selected by the link" in texts(app)
    assert "compare.runs" in charts(app)
    labels = [item.proto.label for item in app.get("page_link")]
    assert sum("seed 0" in label for label in labels) == 2


def test_another_metric_that_no_run_has_is_said_to_be_missing(done: FakeBackend) -> None:
    app = visit("compare", experiment="exp-0001")
    app.selectbox(key="metric").set_value("collapse/nc4").run()
    assert not app.exception
    assert "No run has reported this metric" in texts(app)
    app.selectbox(key="metric").set_value("train/loss").run()
    assert "compare.exp-0001" in charts(app)


def test_runs_without_gpus_have_no_gpu_seconds(done: FakeBackend) -> None:
    app = visit("compare", experiment="exp-0001", x="GPU-seconds")
    assert "did not request GPUs" in texts(app)
    assert "Each epoch is drawn at the mean time of its seeds" in texts(app)
    assert not app.exception


def test_smoothing_and_the_authors_figure_are_in_the_address(done: FakeBackend) -> None:
    app = visit("compare", experiment="exp-0001", smoothing="0.5", figure="author's two axes", log="true")
    assert not app.exception
    assert "weight 0.5" in texts(app)
    assert "Dashed, right axis: Test accuracy (%)" in texts(app)


def test_the_target_is_asked_of_the_backend(done: FakeBackend) -> None:
    app = visit("compare", experiment="exp-0001")
    assert "Epochs to 9" in texts(app)
    before = done.requests.count("GET /api/v1/comparisons")
    app.slider(key="target").set_value(80).run()
    assert done.requests.count("GET /api/v1/comparisons") == before + 1
    app.run()
    assert done.requests.count("GET /api/v1/comparisons") == before + 1
    assert not app.exception


def test_an_accuracy_can_be_the_target(done: FakeBackend) -> None:
    app = visit("compare", experiment="exp-0001", goal="accuracy")
    app.slider(key="accuracy").set_value(60).run()
    assert "Epochs to 60.00 %" in texts(app)
    assert "Epochs to 60.00 %" in tables(app)[0][0]
    assert not app.exception


def test_without_a_teacher_the_target_is_an_accuracy(backend: FakeBackend) -> None:
    backend.submit(digits_spec(teacher=None, methods=["ce"]))
    app = visit("compare", experiment="exp-0001")
    assert not app.exception
    assert [item.label for item in app.slider if item.key in ("target", "accuracy")] == ["Target accuracy (%)"]


def test_another_baseline_and_epoch_are_asked_of_the_backend(done: FakeBackend) -> None:
    app = visit("compare", experiment="exp-0001", against="dkd_align (log)", at="best validation")
    assert not app.exception
    result = tables(app)[0]
    differences = {row["Method"]: row["Difference to dkd_align (log) (points)"] for row in result}
    assert differences["dkd_align (log)"] == "baseline"
    assert differences["dkd"] not in ("baseline", "–")
    assert "Accuracy at the epoch with the best validation accuracy" in texts(app)
    assert app.query_params["against"] == "dkd_align (log)"


def test_how_many_seeds_a_difference_takes_is_asked_of_the_backend(done: FakeBackend) -> None:
    app = visit("compare", experiment="exp-0001")
    assert "To see a difference" not in texts(app)
    app.number_input(key="difference").set_value(0.5).run()
    assert "To see a difference of 0.50 points" in texts(app)
    again = visit("compare", experiment="exp-0001", difference="0.25")
    assert "To see a difference of 0.25 points" in texts(again)
    assert not app.exception
    assert not again.exception


def test_a_baseline_that_no_chosen_experiment_has_is_not_asked_for(done: FakeBackend) -> None:
    app = visit("compare", experiment="exp-0001", against="nkd")
    assert not app.exception
    assert not app.error
    assert "baseline" in {row["Difference to dkd (points)"] for row in tables(app)[0]}


def test_without_a_choice_nothing_is_drawn(done: FakeBackend) -> None:
    app = visit("compare", experiment="exp-0001")
    app.multiselect[0].set_value([]).run()
    assert "Select an experiment" in texts(app)
    assert not tables(app)
    assert not app.exception


def test_metrics_are_chosen_by_group(done: FakeBackend) -> None:
    app = visit("compare", experiment="exp-0001")
    [table] = [rows for rows in tables(app) if "Metric" in rows[0]]
    assert [row["Metric"] for row in table] == ["Agreement (%)", "NC1: variability within classes"]
    assert "(3); " in table[0]["dkd_align (log)"]
    assert "+0.0033 [+0.0024, +0.0043]" in table[1]["dkd_align (log)"].replace("\u00a0", " ")
