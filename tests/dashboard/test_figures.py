"""Figures of runs: traces, units, and zoom after a refresh."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from core.catalog import METHODS
from core.catalog.metrics import METRICS, describe_metrics
from core.catalog.tasks import RIGHT
from core.protocol.public import MethodResult
from dashboard.charts import chart_component, figures, panels
from dashboard.curves.curve import Curve


def curve(values: list[float], name: str = "test/top1", *, resolution: int = 1) -> Curve:
    epochs = [float(index + 1) for index in range(len(values))]
    steps = list(range(1, len(values) + 1))
    low, high = ([v - 1 for v in values], [v + 1 for v in values]) if resolution > 1 else (values, values)
    return Curve(name, steps, epochs, epochs, values, low, high, resolution)


def traces(figure: Any) -> dict[str, Any]:
    return {trace.name: trace for trace in figure.data if trace.name}


def run_panels() -> dict[str, panels.Panel]:
    return {panel.key: panel for panel in panels.standard_panels(describe_metrics())}


def test_title_of_an_axis_is_broken_where_it_would_be_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, Any] = {}
    monkeypatch.setattr(chart_component, "_component", lambda: lambda **given: drawn.update(given))
    for height, title in (
        (300, "Machine's processors idle<br>and waiting for a disk (%)"),
        (600, "Machine's processors idle and waiting for a disk (%)"),
    ):
        figure = figures.plain_figure("Machine's processors idle and waiting for a disk (%)", "Epoch", height=height)
        chart_component.chart(figure, key="chart", alt="A chart")
        assert json.loads(drawn["data"]["figure"])["layout"]["yaxis"]["title"]["text"] == title


def test_every_panel_names_the_units_of_its_axes() -> None:
    for panel in run_panels().values():
        for trace in panel.traces:
            assert METRICS[trace.metric].unit in (panel.second_axis if trace.second else panel.axis)


def test_every_metric_of_the_catalog_that_is_to_be_drawn_is_drawn_on_the_run_page() -> None:
    metrics = describe_metrics()
    shown = (*panels.standard_panels(metrics), *panels.additional_panels(metrics), *panels.machine_panels(metrics))
    drawn = [trace.metric for panel in shown for trace in panel.traces]
    assert set(METRICS) - set(drawn) == {name for name, metric in METRICS.items() if not metric.drawn}
    assert len(drawn) == len(set(drawn))


def test_panels_are_in_the_order_of_a_training() -> None:
    titles = list(run_panels())
    assert titles[:3] == ["accuracy", "average-precision", "loss-and-its-terms"]
    assert titles[-2:] == ["agreement-with-the-teacher", "learning-rate"]
    assert titles.index("terms-of-the-detector") < titles.index("gradient-similarity")
    assert titles[titles.index("gradient-similarity") + 1] == "alignment-term"


def described(name: str, title: str, unit: str = "", **more: str) -> dict[str, str]:
    return {"name": name, "title": title, "unit": unit, "label": f"{title} ({unit})" if unit else title, **more}


def test_metrics_of_a_new_method_appear_in_the_panels_that_they_name() -> None:
    metrics = [
        *describe_metrics(),
        described("train/mine", "My term", "nats"),
        described("grad/mine", "My angle", "°"),
        described("train/near", "My distance", panel="Terms of mine"),
        described("train/near_share", "My share", "%", panel="Terms of mine"),
        described("train/near_time", "My time", "s", panel="Terms of mine"),
    ]
    standard = {panel.key: panel for panel in panels.standard_panels(metrics)}
    assert "My term" in {trace.title for trace in standard["loss-and-its-terms"].traces}
    mine = standard["terms-of-mine"]
    assert (mine.title, mine.axis, mine.second_axis) == ("Terms of mine", "My distance", "My share (%)")
    assert [(trace.title, trace.second) for trace in mine.traces] == [("My distance", False), ("My share", True)]
    assert standard["terms-of-mine-s"].axis == "My time (s)", "a chart has two axes"
    angle = next(
        panel for panel in panels.additional_panels(metrics) if "grad/mine" in {t.metric for t in panel.traces}
    )
    assert (angle.title, angle.axis) == ("My angle", "My angle (°)")


def test_one_axis_has_one_unit() -> None:
    for panel in (*panels.standard_panels(describe_metrics()), *panels.additional_panels(describe_metrics())):
        for second in (False, True):
            assert len({METRICS[trace.metric].unit for trace in panel.traces if trace.second is second}) < 2, panel
        if panel.title not in ("Shares of the gradient", "Weights that give shares"):  # a run has those of its method
            assert len({(trace.colour, trace.dash) for trace in panel.traces}) == len(panel.traces)
            assert len(panel.traces) <= 8, "more than one can tell apart"


def test_the_shares_of_a_runs_terms_are_told_apart() -> None:
    shares = run_panels()["shares-of-the-gradient"]
    assert len(shares.traces) > 24
    curves = {trace.metric: curve([50.0, 40.0], trace.metric) for trace in shares.traces[::4]}
    figure = figures.run_figure(shares, curves)
    assert figure is not None
    lines = {(trace.line.color, trace.line.dash) for trace in figure.data}
    assert len(lines) == len(curves)
    assert figure.layout.yaxis.title.text == "Shares of the gradient (%)"


def test_every_term_has_a_share_and_the_weight_that_gives_it() -> None:
    for entry in METHODS:
        for term in entry.terms:
            assert METRICS[f"grad/share_{term}"].panel == "Shares of the gradient"
            assert METRICS[f"train/weight_{term}"].panel == "Weights that give shares"


def test_metrics_that_the_catalog_does_not_describe_are_drawn() -> None:
    metrics = panels.with_undescribed(
        describe_metrics(), ["train/loss", "train/odd_term", "mine/angle", "mine/length", "alone"]
    )
    assert len(metrics) == len(describe_metrics()) + 4
    standard = {panel.title: panel for panel in panels.standard_panels(metrics)}
    assert [trace.title for trace in standard["Other measurements of the training"].traces] == ["Odd term"]
    more = {panel.title: panel for panel in panels.additional_panels(metrics)}
    assert [trace.metric for trace in more["Mine"].traces] == ["mine/angle", "mine/length"]
    assert [trace.metric for trace in more["Alone"].traces] == ["alone"]


def test_axis_of_further_measurements_names_their_quantity() -> None:
    more = [panel for panel in panels.additional_panels(describe_metrics()) if len(panel.traces) > 1]
    axes = {panel.key.rpartition(".")[0]: panel.axis for panel in more}
    assert axes["grad.%"] == "Share of the samples (%)"
    assert axes["speed.%"] == "Share of the time, or of the images (%)"
    assert axes["calibration.%"] == "Calibration error (%)"
    assert not [axis for axis in axes.values() if axis in ("Gradients (%)", "Training speed (%)", "S", "Nats")]


def test_tooltip_of_a_run_has_the_unit_of_its_metric() -> None:
    (panel,) = (panel for panel in panels.standard_panels(describe_metrics()) if panel.title == "Alignment term")
    names = [trace.metric for trace in panel.traces]
    figure = figures.run_figure(panel, {name: curve([1.0, 2.0], name) for name in names})
    assert figure is not None
    assert [trace.hovertemplate for trace in figure.data] == ["%{y:.4g} %", "%{y:.4g}"]


def test_ap_of_the_classes_of_a_data_set_is_drawn_under_their_names() -> None:
    metrics = panels.with_undescribed(describe_metrics(), ["ap_class/RBC", "ap_class/traffic light"])
    (panel,) = (panel for panel in panels.additional_panels(metrics) if panel.title == "AP by class")
    assert [trace.title for trace in panel.traces] == ["RBC", "traffic light"]
    assert panel.axis == "AP by class (%)"


@pytest.mark.parametrize(
    ("method", "terms"),
    [
        ("nkd", ("target", "non_target")),
        ("rld", ("scd", "mcd")),
        ("dist", ("inter", "intra")),
        ("dkd-divergence", ("target_mse", "divergence")),
    ],
)
def test_terms_of_one_method_are_drawn_together_in_their_unit(method: str, terms: tuple[str, ...]) -> None:
    panel = run_panels()[f"terms-of-{method}"]
    assert tuple(trace.metric for trace in panel.traces) == tuple(f"train/{term}" for term in terms)
    figure = figures.run_figure(panel, {f"train/{term}": curve([2.0, 1.0], f"train/{term}") for term in terms})
    assert figure is not None
    assert len(traces(figure)) == 2


def test_metric_measured_once_is_a_table_row_and_no_chart() -> None:
    metrics = describe_metrics()
    once = curve([1.234], "collapse/nc1")
    assert panels.final_measurements({"test/top1": curve([50.0]), "collapse/nc1": once}, metrics, 20, "image") == []
    rows = panels.final_measurements({"test/top1": curve([50.0, 60.0]), "collapse/nc1": once}, metrics, 20, "image")
    assert rows == [{"Final measurement": METRICS["collapse/nc1"].title, "Value": "1.234"}]


@pytest.mark.parametrize(
    ("name", "more", "count"),
    [
        ("calibration/ece", {}, "of 20 images"),
        ("fidelity/agreement_right", {RIGHT: curve([17.0], RIGHT)}, "of 17 images"),
        ("fidelity/agreement_right", {}, "number of images not recorded"),
    ],
)
def test_share_among_final_measurements_names_its_images(name: str, more: dict[str, Curve], count: str) -> None:
    curves = {"test/top1": curve([50.0, 60.0]), name: curve([1.5], name), **more}
    titles = [row["Final measurement"] for row in panels.final_measurements(curves, describe_metrics(), 20, "image")]
    assert f"{METRICS[name].title} ({count})" in titles


def test_a_panel_without_data_is_left_out() -> None:
    assert figures.run_figure(run_panels()["accuracy"], {}) is None
    assert figures.run_figure(run_panels()["accuracy"], {"test/top1": Curve("test/top1")}) is None


def test_a_run_chart_draws_its_metrics_over_epochs_and_keeps_zoom() -> None:
    figure = figures.run_figure(run_panels()["accuracy"], {"test/top1": curve([50.0, 60.0]), "lr": curve([0.1], "lr")})
    assert figure is not None
    assert set(traces(figure)) == {"Test accuracy"}
    assert list(traces(figure)["Test accuracy"].x) == [1.0, 2.0]
    assert figure.layout.xaxis.title.text == "Epoch"
    assert figure.layout.yaxis.title.text == "Accuracy (%)"
    assert figure.layout.uirevision == "constant"


def test_values_that_are_not_finite_are_gaps() -> None:
    figure = figures.run_figure(run_panels()["accuracy"], {"test/top1": curve([50.0, math.nan, math.inf])})
    assert figure is not None
    assert list(traces(figure)["Test accuracy"].y) == [50.0, None, None]


def test_a_downsampled_curve_shows_the_range_of_its_buckets() -> None:
    figure = figures.run_figure(run_panels()["accuracy"], {"test/top1": curve([50.0, 60.0], resolution=4)})
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
    loss = run_panels()["loss-and-its-terms"]
    titles = {trace.metric: trace.title for trace in loss.traces}
    assert titles["train/loss"] == "Training loss, weighted"
    for term in ("train/ce", "train/kd", "train/tckd", "train/nckd"):
        assert titles[term].endswith(", unweighted")
    assert "before their weights" in loss.help
    assert all(METRICS[f"train/{name}"].title.endswith(", unweighted") for name in TERMS)


def test_share_of_few_images_names_their_number() -> None:
    panel = run_panels()["agreement-with-the-teacher"]
    curves = {
        "fidelity/agreement_wrong": curve([10.0, 20.0]),
        "fidelity/agreement_right": curve([90.0, 95.0]),
        "fidelity/images_wrong": curve([10.0, 10.0]),
    }
    figure = figures.run_figure(panel, curves)
    assert set(traces(figure)) == {
        "Agreement where the teacher is wrong (of 10 images)",
        "Agreement where the teacher is right (number of images not recorded)",
    }


def test_share_counts_what_the_task_calls_an_image() -> None:
    panel = run_panels()["agreement-with-the-teacher"]
    curves = {"fidelity/agreement_wrong": curve([10.0, 20.0]), "fidelity/images_wrong": curve([10.0, 10.0])}
    assert set(traces(figures.run_figure(panel, curves, "text"))) == {
        "Agreement where the teacher is wrong (of 10 texts)"
    }
