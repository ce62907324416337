"""Methods side by side, as figures: curves averaged over seeds, and differences with their intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from common.formatting import difference_text, value_text
from core.protocol.public import Paired
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
"""What curves are drawn over, and the title of that axis."""
Band = Literal["range", "sd"]


@dataclass(frozen=True)
class ChartSettings:
    """How curves are drawn.

    Attributes:
        band: ``range``: least to greatest value; ``sd``: mean ± one sample standard deviation, no width where n = 1.
        smoothing: 0 (none) to below 1: of each run's moving average, how much of the past stays from point to point.
        log: the left axis is logarithmic; values that are not positive are gaps.
        gpus: of each run, for GPU-seconds.
    """

    x: XAxis = "epochs"
    band: Band = "range"
    smoothing: float = 0.0
    log: bool = False
    gpus: int = 1


@dataclass(frozen=True)
class SeedAverage:
    """A method at one epoch, over its seeds. ``x`` is the mean over them, in the unit of the axis."""

    x: float
    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class MethodCurves:
    """What is drawn of one method: its runs' curves for the left axis, and those for the right one."""

    label: str
    main: Sequence[Curve]
    second: Sequence[Curve] = ()


def smooth(values: Iterable[float], weight: float) -> list[float]:
    """Exponential moving average without the pull of a start at zero; values that are not finite stay as they are."""
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


def average_over_seeds(curves: Sequence[Curve], view: ChartSettings | None = None) -> list[SeedAverage]:
    """Mean and band of several runs, epoch by epoch, of the finite values."""
    view = view or ChartSettings()
    by_epoch: dict[float, list[tuple[float, float]]] = {}
    for curve in curves:
        for epoch, x, value in zip(
            curve.epoch, _x_values(curve, view), smooth(curve.value, view.smoothing), strict=True
        ):
            if math.isfinite(value):
                by_epoch.setdefault(round(epoch, 3), []).append((x, value))
    return [_average(pairs, view.band) for _, pairs in sorted(by_epoch.items())]


def subtract_teacher_time(curve: Curve, spent: Curve | None) -> Curve:
    """The curve over the time that the run did not spend on its teacher's logits.

    Args:
        spent: seconds spent on them since the run began, by step; None where that was not recorded.
    """
    if spent is None:
        return curve
    seconds = dict(zip(spent.step, spent.value, strict=True))
    less, elapsed = 0.0, []
    for step, time in zip(curve.step, curve.elapsed, strict=True):
        less = seconds.get(step, less)  # a coarser curve may lack a step: what was spent before it is known
        elapsed.append(max(0.0, time - less))
    return replace(curve, elapsed=elapsed)


def _x_values(curve: Curve, view: ChartSettings) -> Sequence[float]:
    if view.x == "epochs":
        return curve.epoch
    if view.x == "steps":
        return curve.step
    factor = view.gpus if view.x == "GPU-seconds" else 1
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
    view: ChartSettings,
    *,
    teacher: float | None = None,
    epochs: int = 0,
) -> go.Figure:
    """Means over seeds with a band, a colour a method: the left axis solid, the right one dashed.

    Args:
        titles: of the two axes, with units.
        teacher: its test accuracy, %, as a dotted line; only where the left axis is test accuracy.
        epochs: how far an axis of epochs goes from the start, so that it stands still while runs go on; 0: as the data.
    """
    figure = figures.plain_figure(titles[0], X_AXIS_TITLES[view.x], height=480)
    styles = theme.styles(method.label for method in methods)
    second, last = False, 0.0
    for method in methods:
        style = styles[method.label]
        points = average_over_seeds(method.main, view)
        if points:
            last = max(last, points[-1].x)
            if any(point.high > point.low for point in points):
                x, low, high = zip(*((point.x, point.low, point.high) for point in points), strict=True)
                figures.band(figure, x, low, high, style.colour, figures.label_text(method.label))
            _mean_line(figure, points, method.label, style, second=False)
        other = average_over_seeds(method.second, view)
        if other:
            second = True
            _mean_line(figure, other, method.label, style, second=True)
    if second:
        figures.second_axis(figure, titles[1])
    if teacher is not None and math.isfinite(teacher):
        # A trace and not a line of the layout: its words then stand in the legend, where no curve crosses them.
        figure.add_scatter(
            x=[0, epochs if epochs and view.x == "epochs" else last],
            y=[teacher, teacher],
            name=f"teacher, {value_text(teacher, '%', 2)}",
            mode="lines",
            line={"color": theme.GREY, "width": 1.5, "dash": "dot"},
            hoverinfo="skip",
        )
    figure.update_xaxes(rangemode="tozero")
    if epochs and view.x == "epochs":
        figure.update_xaxes(range=[0, epochs * 1.02])
    if view.log:
        figure.update_layout(yaxis={"type": "log"})
    # Below the plot: at phone width the entries take several lines, which would push the plot down from above.
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
        # Enough to tell methods apart by; one at each of a hundred epochs runs together, and is slow to draw.
        marker={"size": 6, "symbol": style.symbol, "maxdisplayed": 20},
        line={"color": style.colour, "width": 1.5 if second else 2.5, "dash": "dash" if second else "solid"},
        opacity=0.75 if second else 1,
        yaxis="y2" if second else "y",
        hovertemplate="%{y:.4g} [%{customdata[0]:.4g}, %{customdata[1]:.4g}], n = %{customdata[2]}",
    )


def forest_figure(paired: Sequence[Paired], axis: str) -> go.Figure | None:
    """Each method's mean difference to the baseline with its 95 % interval; None where there is no pair yet.

    Args:
        axis: title, with the unit of a difference.
    """
    drawn = [pair for pair in paired if pair.mean_difference is not None]
    if not drawn:
        return None
    styles = theme.styles([*(pair.baseline for pair in paired), *(pair.label for pair in paired)])
    figure = figures.plain_figure("", axis, height=110 + 52 * len(drawn))
    for pair in reversed(drawn):
        mean, bounds = pair.mean_difference or 0.0, pair.interval
        words = difference_text(mean, bounds) + ("" if bounds else ", no interval")
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
            hovertemplate=f"{words}<extra></extra>",
        )
    figure.add_vline(x=0, line={"color": theme.GREY, "width": 1.5, "dash": "dot"})
    figure.update_layout(showlegend=False, hovermode="closest")
    figure.update_yaxes(type="category", range=[-0.6, len(drawn) - 0.4])
    return figure
