"""Figures that compare methods: curves averaged over seeds, and differences with their intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from common.formatting import difference_text, value_text
from core.protocol.public import PairedDifference
from dashboard import families, theme
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
    """Curves of the runs of one method.

    Attributes:
        label: Label of the curve.
        main: Curves for the left axis, one per run.
        second: Curves for the right axis.
        family: Family of the method, by which the curves of many methods are grouped.
        link: Address that a click on a point opens, relative to any page; empty for none.
    """

    label: str
    main: Sequence[Curve]
    second: Sequence[Curve] = ()
    family: str = ""
    link: str = ""


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
            curve.epoch, x_values(curve, settings), smooth(curve.value, settings.smoothing), strict=True
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


def x_values(curve: Curve, settings: ChartSettings) -> Sequence[float]:
    """Return the positions of a curve's points in the unit of the x axis."""
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
    units: tuple[str, str] = ("%", ""),
    epochs: int = 0,
    styles: Mapping[str, theme.Style] | None = None,
    values: tuple[float, float] | None = None,
    live: bool = False,
) -> go.Figure:
    """Draw the mean over seeds of each method with a band: solid on the left axis, dashed on the right one.

    With many methods, the legend is grouped by family, and a band appears with its method when the pointer is on it.

    Args:
        methods: Curves of each method.
        titles: Titles of the left and right axes, with units.
        settings: Settings of the chart.
        teacher: The teacher's value of the left axis's metric, drawn as a dotted line with its text; None for none.
        units: Units of the left and of the right axis, for tooltips and the teacher's value.
        epochs: Upper end of an axis of epochs; 0 to fit the data.
        styles: Styles of the labels; by default those of labels that the catalog does not know.
        values: First range of the left axis, which a double click resets to all values; None for all values.
        live: Whether runs still train. The x axis then ends a little beyond the last point.
    """
    figure = figures.plain_figure(titles[0], X_AXIS_TITLES[settings.x], height=480)
    styles = styles or theme.styles(method.label for method in methods)
    many = len(methods) > families.MANY
    second, last_x = False, 0.0
    for method in methods:
        style = styles[method.label]
        points = average_over_seeds(method.main, settings)
        if points:
            last_x = max(last_x, points[-1].x)
            if any(point.high > point.low for point in points):
                x, low, high = zip(*((point.x, point.low, point.high) for point in points), strict=True)
                group = figures.label_text(method.label)
                figures.band(figure, x, low, high, style.colour, group, opacity=0 if many else 1)
            _mean_line(figure, points, method, style, units[0], second=False)
        second_points = average_over_seeds(method.second, settings)
        if second_points:
            second = True
            _mean_line(figure, second_points, method, style, units[1], second=True)
    if second:
        figures.second_axis(figure, titles[1])
    total = float(epochs) if settings.x == "epochs" else 0.0
    end = figures.later_end(last_x, total) if live else total or last_x
    if teacher is not None and math.isfinite(teacher):
        # A trace instead of a line of the layout, so that the legend names it and no curve crosses the text.
        figure.add_scatter(
            x=[0, end],
            y=[teacher, teacher],
            name=f"teacher, {value_text(teacher, units[0], 2)}",
            mode="lines",
            line={"color": theme.GREY, "width": 1.5, "dash": "dot"},
            hoverinfo="skip",
        )
    figure.update_xaxes(rangemode="tozero")
    if live:  # no fixed range: that of the next point would undo a person's zoom
        figure.update_xaxes(autorangeoptions={"include": [0, end]})
    elif total:
        figure.update_xaxes(range=[0, total * 1.02])
    if settings.log:
        figure.update_layout(yaxis={"type": "log"})
    # The legend is below the plot: on a phone it has several lines, which would push the plot down from above.
    figure.update_layout(legend={"y": -0.16, "yanchor": "top"})
    if values:
        figure.update_layout(yaxis={"range": values})
    if many:
        _group_by_family(figure, methods, styles)
    return figure


def family_figure(
    methods: Sequence[MethodCurves],
    reference: MethodCurves | None,
    titles: tuple[str, str],
    settings: ChartSettings,
    *,
    teacher: float | None,
    units: tuple[str, str] = ("%", ""),
    epochs: int,
    styles: Mapping[str, theme.Style],
    values: tuple[float, float] | None,
    live: bool = False,
) -> go.Figure:
    """Draw the methods of one family as a small figure; those of all families have the same axes.

    Args:
        methods: Curves of the methods of the family.
        reference: A method of another family, drawn in grey; None for none.
        titles: Titles of the left and right axes, with units.
        settings: Settings of the chart.
        teacher: The teacher's value; None for none.
        units: Units of the two axes.
        epochs: Upper end of an axis of epochs; 0 to fit the data.
        styles: Styles of the labels.
        values: Range of the left axis; None to fit the data.
        live: Whether runs still train.
    """
    shown = [*methods, *([reference] if reference else [])]
    grey = {reference.label: theme.Style(theme.GREY, dash="dash")} if reference else {}
    all_styles = {**styles, **grey}
    figure = curves_figure(
        shown,
        titles,
        settings,
        teacher=teacher,
        units=units,
        epochs=epochs,
        styles=all_styles,
        values=values,
        live=live,
    )
    figure.update_layout(height=340)
    _group_by_family(figure, shown, all_styles)
    return figure


def later_range(
    methods: Sequence[MethodCurves], settings: ChartSettings, teacher: float | None = None
) -> tuple[float, float] | None:
    """Return the range of the left axis after the first quarter of the curves.

    With many methods, the great change in the beginning would leave no room for the differences between them.

    Returns:
        The range, with the teacher's value; None without points or on a logarithmic axis.
    """
    averages = [average_over_seeds(method.main, settings) for method in methods]
    last = max((points[-1].x for points in averages if points), default=0.0)
    values = [value for points in averages for p in points if p.x >= last / 4 for value in (p.low, p.high)]
    if not values or settings.log:
        return None
    values += [teacher] if teacher is not None and math.isfinite(teacher) else []
    low, high = min(values), max(values)
    margin = 0.04 * (high - low) or 1.0
    return low - margin, high + margin


def _group_by_family(figure: go.Figure, methods: Sequence[MethodCurves], styles: Mapping[str, theme.Style]) -> None:
    """Let the browser draw a legend of families beside the figure, which also highlights a method (``chart.js``)."""
    kinds = {method.label: families.Kind(method.label, method.family) for method in methods}
    drawn = {figures.label_text(method.label): method for method in methods}
    for trace in figure.data:
        method = drawn.get((trace.meta or {}).get("method", ""))
        if method:
            group = families.family_title(method.family)
            trace.update(legendgroup=group, legendgrouptitle={"text": figures.label_text(group)})
            if trace.hovertemplate:
                trace.hovertemplate += ", at %{x:.4~g}"
    groups = [
        {
            "title": families.family_title(family),
            "methods": [
                {
                    "label": label,
                    "method": figures.label_text(label),
                    "colour": styles[label].colour,
                    "dash": styles[label].dash,
                }
                for label in members
            ],
        }
        for family, members in families.grouped((method.label for method in methods), kinds).items()
    ]
    figure.update_layout(
        meta={"families": groups}, showlegend=False, hovermode="closest", hoverlabel={"namelength": -1}
    )


def _mean_line(
    figure: go.Figure,
    points: Sequence[SeedAverage],
    method: MethodCurves,
    style: theme.Style,
    unit: str,
    *,
    second: bool,
) -> None:
    label = method.label
    name = figures.label_text(f"{label}, right axis" if second else label)
    figure.add_scatter(
        x=[point.x for point in points],
        y=[point.mean for point in points],
        customdata=[[_range_text(point), point.n] for point in points],
        name=name,
        meta={"method": figures.label_text(label), **({"link": method.link} if method.link else {})},
        legendgroup=name,
        showlegend=not second,
        mode="lines" if second else "lines+markers",
        # Few markers are enough to distinguish methods; markers at a hundred epochs would overlap and be slow to draw.
        marker={"size": 6, "symbol": style.symbol, "maxdisplayed": 20},
        line={"color": style.colour, "width": 1.5 if second else 2.5, "dash": "dash" if second else style.dash},
        opacity=0.75 if second else 1,
        yaxis="y2" if second else "y",
        hovertemplate=f"%{{y:.4g}}{figures.unit_text(unit)}%{{customdata[0]}}, n = %{{customdata[1]}}",
    )


def _range_text(point: SeedAverage) -> str:
    """Return the ends of the band in brackets; nothing for a single run, which has no band."""
    return f" [{point.low:.4g}, {point.high:.4g}]".replace("-", "−") if point.n > 1 else ""


def forest_figure(
    paired: Sequence[PairedDifference], axis: str, styles: Mapping[str, theme.Style] | None = None, unit: str = ""
) -> go.Figure | None:
    """Draw the mean difference of each method to the baseline with its 95 % interval; None if there are no pairs.

    Args:
        paired: Comparisons with the baseline, from top to bottom.
        axis: Title of the x axis, with the unit of a difference.
        styles: Styles of the labels; by default those of labels that the catalog does not know.
        unit: Unit of a difference, for the tooltips.
    """
    comparisons = [pair for pair in paired if pair.mean_difference is not None]
    if not comparisons:
        return None
    styles = styles or theme.styles([*(pair.baseline for pair in paired), *(pair.label for pair in paired)])
    row = 26 if len(comparisons) > families.MANY else 52  # pixels
    figure = figures.plain_figure("", axis, height=110 + row * len(comparisons))
    for pair in reversed(comparisons):
        mean, bounds = pair.mean_difference or 0.0, pair.interval
        text = figures.label_text(difference_text(mean, bounds, unit))
        text += f", n = {pair.n}{'' if bounds else ', no interval'}"
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
