"""Figures that compare methods."""

from __future__ import annotations

import math
from typing import Any

import pytest

from core.protocol.public import Interval, PairedDifference
from dashboard import theme
from dashboard.charts import comparison_charts
from dashboard.charts.comparison_charts import ChartSettings
from dashboard.charts.counted_titles import with_count
from tests.dashboard.test_figures import curve, traces


def test_the_mean_over_seeds_with_its_range() -> None:
    points = comparison_charts.average_over_seeds(
        [curve([50.0, 60.0]), curve([54.0, 64.0, 70.0]), curve([52.0, math.nan])]
    )
    assert [(point.mean, point.low, point.high, point.n) for point in points] == [
        (52.0, 50.0, 54.0, 3),
        (62.0, 60.0, 64.0, 2),
        (70.0, 70.0, 70.0, 1),
    ]


def test_the_mean_over_seeds_with_one_sample_sd() -> None:
    points = comparison_charts.average_over_seeds(
        [curve([50.0]), curve([52.0]), curve([54.0])], ChartSettings(band="sd")
    )
    assert points[0].low == pytest.approx(50.0)
    assert points[0].high == pytest.approx(54.0)
    alone = comparison_charts.average_over_seeds([curve([50.0])], ChartSettings(band="sd"))
    assert (alone[0].low, alone[0].high) == (50.0, 50.0)


def comparison() -> Any:
    return comparison_charts.curves_figure(
        [
            comparison_charts.MethodCurves("dkd", [curve([50.0, 60.0]), curve([52.0, 63.0])], [curve([0.06, 0.02])]),
            comparison_charts.MethodCurves("dkd_align (log)", [curve([48.0, 61.0])], []),
        ],
        ("Test accuracy (%)", "Gradient similarity (cosine)"),
        ChartSettings(),
        teacher=98.2,
        epochs=30,
    )


def test_comparison_draws_one_colour_per_method_and_dashed_similarity() -> None:
    figure = comparison()
    curves = traces(figure)
    styles = theme.styles(["dkd", "dkd_align (log)"])
    assert curves["dkd"].line.color == styles["dkd"].colour
    assert curves["dkd_align (log)"].line.color == styles["dkd_align (log)"].colour
    similarity = curves["dkd, right axis"]
    assert (similarity.line.color, similarity.line.dash, similarity.yaxis) == (styles["dkd"].colour, "dash", "y2")
    assert "dkd_align (log), right axis" not in curves
    assert figure.layout.yaxis.title.text == "Test accuracy (%)"
    assert "cosine" in figure.layout.yaxis2.title.text


def test_label_with_markup_is_drawn_literally() -> None:
    method = comparison_charts.MethodCurves("<b>x</b> & y", [curve([50.0, 60.0])], [])
    assert "&lt;b&gt;x&lt;/b&gt; &amp; y" in traces(
        comparison_charts.curves_figure([method], ("Accuracy", ""), ChartSettings())
    )


def test_comparison_shows_n_and_draws_a_band_for_several_seeds_only() -> None:
    figure = comparison()
    assert [row[1] for row in traces(figure)["dkd"].customdata] == [2, 2]
    bands = [trace for trace in figure.data if trace.fill == "toself"]
    assert len(bands) == 1


def test_tooltip_has_the_unit_and_an_interval_only_of_several_seeds() -> None:
    two = comparison_charts.MethodCurves("two", [curve([50.0, 60.0]), curve([52.0, 64.0])], [curve([0.5, 0.25])])
    one = comparison_charts.MethodCurves("one", [curve([50.0, 60.0])])
    figure = comparison_charts.curves_figure([two, one], ("Accuracy (%)", "Cosine"), ChartSettings(), units=("%", ""))
    assert traces(figure)["two"].hovertemplate == "%{y:.4g} %%{customdata[0]}, n = %{customdata[1]}"
    assert [row[0] for row in traces(figure)["two"].customdata] == [" [50, 52]", " [60, 64]"]
    assert [row[0] for row in traces(figure)["one"].customdata] == ["", ""]
    assert traces(figure)["two, right axis"].hovertemplate.startswith("%{y:.4g}%{customdata[0]}")


def test_the_teacher_is_a_line_with_its_accuracy_in_the_legend() -> None:
    line = traces(comparison())["teacher, 98.20 %"]
    assert list(line.y) == [98.2, 98.2]
    assert list(line.x) == [0, 30]


def test_equal_data_give_equal_bytes() -> None:
    assert comparison().to_json() == comparison().to_json()


def test_smoothing_starts_at_the_first_value_and_skips_gaps() -> None:
    assert comparison_charts.smooth([4.0, 4.0, 4.0], 0.9) == pytest.approx([4.0, 4.0, 4.0])
    values = comparison_charts.smooth([0.0, math.nan, 1.0], 0.5)
    assert values[2] == pytest.approx(2 / 3)
    assert math.isnan(values[1])
    assert comparison_charts.smooth([1.0, 5.0], 0.0) == [1.0, 5.0]


def test_an_axis_of_time_is_the_mean_over_the_seeds_and_gpu_seconds_count_the_gpus() -> None:
    one, two = curve([50.0, 60.0]), curve([52.0, 63.0])
    one.elapsed, two.elapsed = [1.0, 2.0], [3.0, 4.0]
    time = comparison_charts.average_over_seeds([one, two], ChartSettings(x="time"))
    assert [point.x for point in time] == [2.0, 3.0]
    gpu = comparison_charts.average_over_seeds([one, two], ChartSettings(x="GPU-seconds", gpus=4))
    assert [point.x for point in gpu] == [8.0, 12.0]
    steps = comparison_charts.average_over_seeds([one, two], ChartSettings(x="steps"))
    assert [point.x for point in steps] == [float(step) for step in one.step]


def test_forest_plot_has_one_row_per_method_with_its_interval() -> None:
    pairs = [
        PairedDifference(
            label="kd",
            baseline="dkd",
            n=5,
            seeds=[0, 1, 2, 3, 4],
            mean_difference=-0.5,
            interval=Interval(low=-1.5, high=0.5),
            sentence="",
        ),
        PairedDifference(label="ce", baseline="dkd", n=0, seeds=[], sentence=""),
    ]
    figure = comparison_charts.forest_figure(pairs, "Difference to dkd (percentage points)")
    assert figure is not None
    trace = traces(figure)["kd"]
    assert (list(trace.x), list(trace.y)) == ([-0.5], ["kd (n = 5)"])
    assert (trace.error_x.array[0], trace.error_x.arrayminus[0]) == (1.0, 1.0)
    assert "ce" not in traces(figure)
    assert comparison_charts.forest_figure(pairs[1:], "") is None


def test_title_of_a_share_says_of_how_many_items_of_the_drawn_runs() -> None:
    share, count = "fidelity/agreement_wrong", "fidelity/images_wrong"
    curves = [
        {share: curve([1.0, 2.0]), count: curve([9.0, 10.0])},
        {share: curve([1.0, 2.0]), count: curve([12.0, 12.0])},
        {count: curve([90.0])},  # is not drawn
    ]
    title = with_count("Agreement (%)", share, count, curves, "text")
    assert title == "Agreement (%) (of 10 to 12 texts)"
    assert with_count("Agreement (%)", share, count, [], "text") == "Agreement (%)"
