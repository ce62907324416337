"""Figures of runs: traces, units, and zoom after a refresh."""

from __future__ import annotations

import math
from typing import Any

import pytest

from core.catalog.metrics import METRICS, describe_metrics
from core.protocol.public import MethodResult
from dashboard.charts import figures, panels
from dashboard.curves.curve import Curve


def curve(values: list[float], name: str = "test/top1", *, resolution: int = 1) -> Curve:
    epochs = [float(index + 1) for index in range(len(values))]
    steps = list(range(1, len(values) + 1))
    low, high = ([v - 1 for v in values], [v + 1 for v in values]) if resolution > 1 else (values, values)
    return Curve(name, steps, epochs, epochs, values, low, high, resolution)


def traces(figure: Any) -> dict[str, Any]:
    return {trace.name: trace for trace in figure.data if trace.name}


def test_every_panel_names_metrics_that_the_catalog_has_and_its_unit() -> None:
    for panel in panels.STANDARD_PANELS:
        for trace in panel.traces:
            metric = METRICS[trace.metric]
            axis = panel.second_axis if trace.second else panel.axis
            if metric.unit:
                assert metric.unit in axis or metric.unit == "images/s", f"{trace.metric} on {axis!r}"


def test_every_metric_of_the_catalog_but_the_decayed_weight_is_drawn_on_the_run_page() -> None:
    shown = (*panels.standard_panels(describe_metrics()), *panels.additional_panels(describe_metrics()))
    drawn = {trace.metric for panel in shown for trace in panel.traces}
    assert set(METRICS) - drawn == {"train/epsilon"}


def test_metrics_of_a_new_method_are_drawn() -> None:
    new = [
        {"name": "train/mine", "title": "My term", "unit": "nats", "label": "My term (nats)"},
        {"name": "grad/mine", "title": "My angle", "unit": "°", "label": "My angle (°)"},
    ]
    metrics = [*describe_metrics(), *new]
    loss = next(panel for panel in panels.standard_panels(metrics) if panel.key == "loss")
    assert "My" in {trace.title for trace in loss.traces}
    angle = next(
        panel for panel in panels.additional_panels(metrics) if "grad/mine" in {t.metric for t in panel.traces}
    )
    assert (angle.title, angle.axis) == ("My angle", "°")


def test_one_chart_has_one_unit() -> None:
    for panel in (*panels.standard_panels(describe_metrics()), *panels.additional_panels(describe_metrics())):
        units = {METRICS[trace.metric].unit for trace in panel.traces if trace.metric in METRICS and not trace.second}
        assert len(units) == 1, panel
        assert len(panel.traces) <= 8, "more than one can tell apart"


@pytest.mark.parametrize(
    ("terms", "key"),
    [(("target", "non_target", "scd", "mcd"), "terms"), (("inter", "intra", "target_mse", "divergence"), "distances")],
)
def test_terms_of_one_method_are_drawn_together_in_their_unit(terms: tuple[str, ...], key: str) -> None:
    panel = next(panel for panel in panels.STANDARD_PANELS if panel.key == key)
    assert tuple(trace.metric for trace in panel.traces) == tuple(f"train/{term}" for term in terms)
    figure = figures.run_figure(panel, {f"train/{term}": curve([2.0, 1.0], f"train/{term}") for term in terms})
    assert figure is not None
    assert len(traces(figure)) == 4


def test_metric_measured_once_is_a_table_row_and_no_chart() -> None:
    metrics = describe_metrics()
    once = curve([1.234], "collapse/nc1")
    assert panels.final_measurements({"test/top1": curve([50.0]), "collapse/nc1": once}, metrics) == []
    rows = panels.final_measurements({"test/top1": curve([50.0, 60.0]), "collapse/nc1": once}, metrics)
    assert rows == [{"Final measurement": METRICS["collapse/nc1"].title, "Value": "1.234"}]


def test_a_panel_without_data_is_left_out() -> None:
    assert figures.run_figure(panels.STANDARD_PANELS[0], {}) is None
    assert figures.run_figure(panels.STANDARD_PANELS[0], {"test/top1": Curve("test/top1")}) is None


def test_a_run_chart_draws_its_metrics_over_epochs_and_keeps_zoom() -> None:
    figure = figures.run_figure(panels.STANDARD_PANELS[0], {"test/top1": curve([50.0, 60.0]), "lr": curve([0.1], "lr")})
    assert figure is not None
    assert set(traces(figure)) == {"test"}
    assert list(traces(figure)["test"].x) == [1.0, 2.0]
    assert figure.layout.xaxis.title.text == "Epoch"
    assert figure.layout.yaxis.title.text == "Accuracy (%)"
    assert figure.layout.uirevision == "constant"


def test_values_that_are_not_finite_are_gaps() -> None:
    figure = figures.run_figure(panels.STANDARD_PANELS[0], {"test/top1": curve([50.0, math.nan, math.inf])})
    assert figure is not None
    assert list(traces(figure)["test"].y) == [50.0, None, None]


def test_a_downsampled_curve_shows_the_range_of_its_buckets() -> None:
    figure = figures.run_figure(panels.STANDARD_PANELS[0], {"test/top1": curve([50.0, 60.0], resolution=4)})
    assert figure is not None
    band = next(trace for trace in figure.data if trace.fill == "toself")
    assert list(band.y) == [51.0, 61.0, 59.0, 49.0]


def test_final_values_join_runs_of_equal_seed() -> None:
    groups = [
        MethodResult(label="dkd", method="dkd", n=2, mean=96.0, sd=1.0, values={0: 95.0, 1: 97.0}),
        MethodResult(label="kd", method="kd", n=1, mean=94.0, values={1: 94.0}),
    ]
    figure = figures.seeds_figure(groups, "%")
    assert figure is not None
    assert list(traces(figure)["seed 1"].y) == [97.0, 94.0]
    assert list(traces(figure)["seed 0"].y) == [95.0, None]
    assert figures.seeds_figure(groups[:1], "%") is None


TERMS = ("ce", "kd", "tckd", "nckd", "target", "non_target", "scd", "mcd", "inter", "intra", "target_mse", "divergence")


def test_terms_beside_a_weighted_loss_are_named_as_unweighted() -> None:
    loss = next(panel for panel in panels.STANDARD_PANELS if panel.key == "loss")
    assert "unweighted" in loss.axis
    titles = {trace.metric: trace.title for trace in loss.traces}
    assert titles["train/loss"] == "training loss, weighted"
    for term in ("train/ce", "train/kd", "train/tckd", "train/nckd"):
        assert titles[term].endswith(", unweighted")
    assert "before their weights" in loss.help
    assert all(METRICS[f"train/{name}"].title.endswith(", unweighted") for name in TERMS)


def test_share_of_few_images_names_their_number() -> None:
    panel = next(panel for panel in panels.STANDARD_PANELS if panel.key == "agreement")
    curves = {
        "fidelity/agreement_wrong": curve([10.0, 20.0]),
        "fidelity/agreement_right": curve([90.0, 95.0]),
        "fidelity/images_wrong": curve([10.0, 10.0]),
    }
    figure = figures.run_figure(panel, curves)
    assert set(traces(figure)) == {
        "where the teacher is wrong (of 10 images)",
        "where the teacher is right (number of images not recorded)",
    }
