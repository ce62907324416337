"""Figures that compare methods: curves averaged over seeds, and differences with their intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from common.formatting import difference_text, value_text
from core.protocol.public import PairedDifference
from dashboard import theme
from dashboard.charts import figures
from dashboard.curves.curve import Curve

if TYPE_CHECKING:
    import plotly.graph_objects as go

XAxis = Literal["epochs", "steps", "time", "GPU-seconds"]
X_AXIS_TITLES: dict[XAxis, str] = {
    "epochs": "Epoch",
    "steps": "Step",
    "time": "Training time (s)",
    "GPU-seconds": "GPU time (GPU-seconds)",
}
"""Titles of the x axis by its quantity."""
Band = Literal["range", "sd"]


@dataclass(frozen=True)
class ChartSettings:
    """Settings of a chart of curves.

    Attributes:
        x: Quantity of the x axis.
        band: ``range`` for minimum to maximum, ``sd`` for mean ± one sample standard deviation (no width if n = 1).
        smoothing: Weight of earlier values in each run's exponential moving average, from 0 (no smoothing) to below 1.
        log: Whether the left axis is logarithmic; values that are not positive are gaps.
        gpus: Number of GPUs of each run, for GPU-seconds.
    """

    x: XAxis = "epochs"
    band: Band = "range"
    smoothing: float = 0.0
    log: bool = False
    gpus: int = 1


@dataclass(frozen=True)
class SeedAverage:
    """Mean and band over a method's seeds at one epoch. ``x`` is the mean over the seeds, in the unit of the x axis."""

    x: float
    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class MethodCurves:
    """Curves of the runs of one method: ``main`` for the left axis, ``second`` for the right axis."""

    label: str
    main: Sequence[Curve]
    second: Sequence[Curve] = ()


def smooth(values: Iterable[float], weight: float) -> list[float]:
    """Return the bias-corrected exponential moving average; values that are not finite are returned unchanged."""
    average, counted = 0.0, 0.0
    result: list[float] = []
    for value in values:
        if weight and math.isfinite(value):
            average = weight * average + (1 - weight) * value
            counted = weight * counted + (1 - weight)
            result.append(average / counted)
        else:
            result.append(value)
    return result


def average_over_seeds(curves: Sequence[Curve], settings: ChartSettings | None = None) -> list[SeedAverage]:
    """Return the mean and the band of several runs for each epoch, over the finite values."""
    settings = settings or ChartSettings()
    by_epoch: dict[float, list[tuple[float, float]]] = {}
    for curve in curves:
        for epoch, x, value in zip(
            curve.epoch, _x_values(curve, settings), smooth(curve.value, settings.smoothing), strict=True
        ):
            if math.isfinite(value):
                by_epoch.setdefault(round(epoch, 3), []).append((x, value))
    return [_average(pairs, settings.band) for _, pairs in sorted(by_epoch.items())]


def subtract_teacher_time(curve: Curve, spent: Curve | None) -> Curve:
    """Return the curve with the time spent on the teacher's logits subtracted from its elapsed times.

    Args:
        curve: The curve.
        spent: Seconds spent on the teacher's logits since the start of the run, by step; None if not recorded.
    """
    if spent is None:
        return curve
    seconds = dict(zip(spent.step, spent.value, strict=True))
    teacher_seconds, elapsed = 0.0, []
    for step, time in zip(curve.step, curve.elapsed, strict=True):
        teacher_seconds = seconds.get(step, teacher_seconds)  # if the coarser curve lacks a step, its last value
        elapsed.append(max(0.0, time - teacher_seconds))
    return replace(curve, elapsed=elapsed)


def _x_values(curve: Curve, settings: ChartSettings) -> Sequence[float]:
    if settings.x == "epochs":
        return curve.epoch
    if settings.x == "steps":
        return curve.step
    factor = settings.gpus if settings.x == "GPU-seconds" else 1
    return [factor * seconds for seconds in curve.elapsed]


def _average(pairs: list[tuple[float, float]], band: Band) -> SeedAverage:
    n = len(pairs)
    x, values = math.fsum(x for x, _ in pairs) / n, [value for _, value in pairs]
    mean = math.fsum(values) / n
    if band == "sd":
        sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1)) if n > 1 else 0.0
        return SeedAverage(x, mean, mean - sd, mean + sd, n)
    return SeedAverage(x, mean, min(values), max(values), n)


def curves_figure(
    methods: Sequence[MethodCurves],
    titles: tuple[str, str],
    settings: ChartSettings,
    *,
    teacher: float | None = None,
    epochs: int = 0,
    colours: Mapping[str, str] | None = None,
) -> go.Figure:
    """Draw the mean over seeds of each method with a band: solid on the left axis, dashed on the right one.

    Args:
        methods: Curves of each method.
        titles: Titles of the left and right axes, with units.
        settings: Settings of the chart.
        teacher: The teacher's value of the left axis's metric, drawn as a dotted line with its text; None for none.
        epochs: Upper end of an axis of epochs, so that it does not move while runs train; 0 to fit the data.
        colours: Colours of labels in the catalog.
    """
    figure = figures.plain_figure(titles[0], X_AXIS_TITLES[settings.x], height=480)
    styles = theme.styles((method.label for method in methods), colours)
    second, last_x = False, 0.0
    for method in methods:
        style = styles[method.label]
        points = average_over_seeds(method.main, settings)
        if points:
            last_x = max(last_x, points[-1].x)
            if any(point.high > point.low for point in points):
                x, low, high = zip(*((point.x, point.low, point.high) for point in points), strict=True)
                figures.band(figure, x, low, high, style.colour, figures.label_text(method.label))
            _mean_line(figure, points, method.label, style, second=False)
        second_points = average_over_seeds(method.second, settings)
        if second_points:
            second = True
            _mean_line(figure, second_points, method.label, style, second=True)
    if second:
        figures.second_axis(figure, titles[1])
    if teacher is not None and math.isfinite(teacher):
        # A trace instead of a line of the layout, so that the legend names it and no curve crosses the text.
        figure.add_scatter(
            x=[0, epochs if epochs and settings.x == "epochs" else last_x],
            y=[teacher, teacher],
            name=f"teacher, {value_text(teacher, '%', 2)}",
            mode="lines",
            line={"color": theme.GREY, "width": 1.5, "dash": "dot"},
            hoverinfo="skip",
        )
    figure.update_xaxes(rangemode="tozero")
    if epochs and settings.x == "epochs":
        figure.update_xaxes(range=[0, epochs * 1.02])
    if settings.log:
        figure.update_layout(yaxis={"type": "log"})
    # The legend is below the plot: on a phone it has several lines, which would push the plot down from above.
    figure.update_layout(legend={"y": -0.16, "yanchor": "top"})
    return figure


def _mean_line(
    figure: go.Figure, points: Sequence[SeedAverage], label: str, style: theme.Style, *, second: bool
) -> None:
    name = figures.label_text(f"{label}, right axis" if second else label)
    figure.add_scatter(
        x=[point.x for point in points],
        y=[point.mean for point in points],
        customdata=[[point.low, point.high, point.n] for point in points],
        name=name,
        legendgroup=name,
        showlegend=not second,
        mode="lines" if second else "lines+markers",
        # Few markers are enough to distinguish methods; markers at a hundred epochs would overlap and be slow to draw.
        marker={"size": 6, "symbol": style.symbol, "maxdisplayed": 20},
        line={"color": style.colour, "width": 1.5 if second else 2.5, "dash": "dash" if second else "solid"},
        opacity=0.75 if second else 1,
        yaxis="y2" if second else "y",
        hovertemplate="%{y:.4g} [%{customdata[0]:.4g}, %{customdata[1]:.4g}], n = %{customdata[2]}",
    )


def forest_figure(
    paired: Sequence[PairedDifference], axis: str, colours: Mapping[str, str] | None = None
) -> go.Figure | None:
    """Draw the mean difference of each method to the baseline with its 95 % interval; None if there are no pairs.

    Args:
        paired: Comparisons with the baseline.
        axis: Title of the x axis, with the unit of a difference.
        colours: Colours of labels in the catalog.
    """
    comparisons = [pair for pair in paired if pair.mean_difference is not None]
    if not comparisons:
        return None
    styles = theme.styles([*(pair.baseline for pair in paired), *(pair.label for pair in paired)], colours)
    figure = figures.plain_figure("", axis, height=110 + 52 * len(comparisons))
    for pair in reversed(comparisons):
        mean, bounds = pair.mean_difference or 0.0, pair.interval
        text = difference_text(mean, bounds) + ("" if bounds else ", no interval")
        figure.add_scatter(
            x=[mean],
            y=[figures.label_text(f"{pair.label} (n = {pair.n})")],
            mode="markers",
            marker={"size": 11, "color": styles[pair.label].colour, "symbol": styles[pair.label].symbol},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [bounds.high - mean if bounds else 0],
                "arrayminus": [mean - bounds.low if bounds else 0],
                "thickness": 2.5,
                "width": 7,
                "color": styles[pair.label].colour,
            },
            name=figures.label_text(pair.label),
            hovertemplate=f"{text}<extra></extra>",
        )
    figure.add_vline(x=0, line={"color": theme.GREY, "width": 1.5, "dash": "dot"})
    figure.update_layout(showlegend=False, hovermode="closest")
    figure.update_yaxes(type="category", range=[-0.6, len(comparisons) - 0.4])
    return figure
