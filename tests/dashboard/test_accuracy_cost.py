"""The section of the Compare page with accuracy against cost, and its figure."""

from __future__ import annotations

import json
from typing import Any

import pytest

from client import costs
from client.costs import Costs
from dashboard.charts.cost_chart import cost_figure
from tests.client.test_costs import LARGE, MEASURED, SMALL, network, report
from tests.dashboard.conftest import charts, tables, texts, visit
from tests.dashboard.fakes import FakeBackend, digits_spec


def test_a_figure_has_intervals_on_both_axes_and_the_front() -> None:
    found = costs.candidates([SMALL, LARGE], MEASURED)
    figure = cost_figure(found, costs.axes(MEASURED)["latency 1"], "Test accuracy (%)")
    traces = {trace.name: trace for trace in figure.data}
    kd = traces["small: kd (small_cnn)"]
    assert (kd.x[0], kd.y[0]) == (1.5, 95.0)
    assert (kd.error_x.arrayminus[0], kd.error_x.array[0]) == pytest.approx((0.6, 0.7))
    assert (kd.error_y.arrayminus[0], kd.error_y.array[0]) == pytest.approx((1.0, 1.0))
    assert list(traces["Pareto front"].y) == [97.2, 97.5, 98.0]
    assert traces["large: kd (resnet8)"].marker.symbol != kd.marker.symbol
    assert traces["large: kd (resnet8)"].marker.color == kd.marker.color
    assert traces["teacher resnet20"].marker.symbol == "star"
    assert figure.layout.xaxis.title.text == "latency, batch 1 (ms)"
    assert figure.layout.xaxis.type is None


def test_costs_that_differ_a_lot_are_drawn_on_a_logarithmic_axis() -> None:
    found = costs.candidates([SMALL, LARGE], MEASURED)
    assert cost_figure(found, costs.axes(MEASURED)["parameters"], "").layout.xaxis.type == "log"


def test_names_are_no_markup_in_the_figure() -> None:
    hostile = network("a0", model="<b>m</b>")
    measured = Costs.model_validate(report(hostile))
    named = SMALL.model_copy(update={"groups": [SMALL.groups[0].model_copy(update={"label": "<i>x</i>"})]})
    figure = cost_figure(costs.candidates([named], measured), costs.axes(measured)["parameters"], "")
    assert "<" not in figure.data[1].name


@pytest.fixture
def measured(backend: FakeBackend) -> bytes:
    """Create two finished experiments with other students, and return what their networks cost."""
    backend.submit(digits_spec())
    backend.submit(digits_spec(name="other student", student={"model": "resnet8"}))
    networks = []
    for run in list(backend.runs.values()):
        backend.advance(run.id, 30)
        model = run.plan.spec.model.name
        networks.append(network(run.id, model, {"small_cnn": 1442, "resnet8": 77_754}.get(model, 270_000)))
    return json.dumps(report(*networks)).encode()


def _upload(content: bytes, **params: Any) -> Any:
    app = visit("compare", experiment=["exp-0001", "exp-0002"], **params)
    return app.file_uploader(key="costs.file").upload("costs.json", content, "application/json").run()


def test_the_smallest_student_is_named(measured: bytes) -> None:
    app = _upload(measured, margin="100.0")
    assert not app.exception
    assert "dkd measure digits-dkd-vs-dkd-align 'other student' --json > costs.json" in texts(app)
    assert "compare.costs" in charts(app)
    assert "of small\\_cnn has the fewest parameters: 1,442, at" in texts(app)
    (table,) = [rows for rows in tables(app) if "Network" in rows[0]]
    assert {row["Model"] for row in table} == {"small_cnn", "resnet8", "resnet20"}
    app.number_input(key="margin").set_value(0.0).run()
    assert "No measured student is within 0.00 percentage points of the teacher" in texts(app)
    app.segmented_control(key="measured-against").set_value("best").run()
    assert "Of the students within 0.00 percentage points of the best student" in texts(app)
    app.selectbox(key="cost").set_value("latency 64").run()
    assert not app.exception
    assert "the least latency at batch 64" in texts(app)


def test_another_file_is_refused_and_other_runs_are_named(measured: bytes, backend: FakeBackend) -> None:
    app = _upload(b"{}")
    assert not app.exception
    assert "not the output of" in texts(app)
    app = _upload(json.dumps(report(network("elsewhere"))).encode())
    assert "No measured network belongs to a result of these experiments." in texts(app)


def test_single_runs_have_no_section(measured: bytes) -> None:
    app = visit("compare", run=["run-0001-001", "run-0001-002"])
    assert not app.exception
    assert not app.file_uploader
