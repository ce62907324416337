"""Figures from curves: pure functions, data in, Plotly figure out.

Every axis carries its unit. ``uirevision`` is constant, so that zoom and hidden traces survive a refresh that brings
nothing new. Grid, text and background are left to ``dashboard.plot``, which follows the page's light or dark mode; only
the colours of traces are set.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.wire.public import Group
from dashboard import theme
from dashboard.live import Curve
from dashboard.panels import Panel

if TYPE_CHECKING:
    import plotly.graph_objects as go

EPOCH = "Epoch"


def run_figure(panel: Panel, curves: Mapping[str, Curve]) -> go.Figure | None:
    """One chart of a run, over epochs; None where the run has none of its metrics."""
    traces = [(trace, curves[trace.metric]) for trace in panel.traces if len(curves.get(trace.metric, ()))]
    if not traces:
        return None
    figure = _figure(panel.axis, height=300)
    second = any(trace.second for trace, _ in traces)
    for trace, curve in traces:
        if curve.resolution > 1:
            _band(figure, curve.epoch, curve.low, curve.high, trace.colour, trace.metric, second=trace.second)
        figure.add_scatter(
            x=curve.epoch,
            y=_drawable(curve.value),
            name=trace.title,
            legendgroup=trace.metric,
            mode="lines+markers" if len(curve) <= 40 else "lines",
            marker={"size": 5},
            line={"color": trace.colour, "dash": trace.dash, "width": 2},
            yaxis="y2" if trace.second else "y",
            hovertemplate="%{y:.4g}",
        )
    if second:
        _second_axis(figure, panel.second_axis)
    if panel.from_zero:
        figure.update_layout(yaxis={"rangemode": "tozero"})
    figure.update_layout(showlegend=len(traces) > 1)
    return figure


@dataclass(frozen=True)
class Point:
    """A method at one epoch, over its seeds."""

    epoch: float
    mean: float
    low: float
    high: float
    n: int


def over_seeds(curves: Sequence[Curve], band: str = "range") -> list[Point]:
    """Mean and band of several runs, epoch by epoch, of the finite values.

    Args:
        band: ``range``: the least and the greatest value; ``sd``: mean ± one sample standard deviation, no width
            where n = 1.
    """
    by_epoch: dict[float, list[float]] = {}
    for curve in curves:
        for epoch, value in zip(curve.epoch, curve.value, strict=True):
            if math.isfinite(value):
                by_epoch.setdefault(round(epoch, 3), []).append(value)
    return [_point(epoch, values, band) for epoch, values in sorted(by_epoch.items())]


def _point(epoch: float, values: list[float], band: str) -> Point:
    n = len(values)
    mean = math.fsum(values) / n
    if band == "sd":
        sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1)) if n > 1 else 0.0
        return Point(epoch, mean, mean - sd, mean + sd, n)
    return Point(epoch, mean, min(values), max(values), n)


@dataclass(frozen=True)
class MethodCurves:
    """What the comparison draws of one method: its runs' test accuracy and gradient similarity."""

    label: str
    accuracy: Sequence[Curve]
    similarity: Sequence[Curve]


def comparison_figure(
    methods: Sequence[MethodCurves], *, band: str = "range", teacher: float | None = None, epochs: int = 0
) -> go.Figure:
    """Test accuracy over epochs, a colour a method, with a band over seeds; gradient similarity dashed on the right.

    Args:
        band: as in ``over_seeds``.
        teacher: its test accuracy, %, as a dotted line.
        epochs: how far the axis goes from the start, so that it stands still while runs go on; 0: as far as the data.
    """
    figure = _figure("Test accuracy (%)", height=480)
    styles = theme.styles(method.label for method in methods)
    second = False
    for method in methods:
        style = styles[method.label]
        points = over_seeds(method.accuracy, band)
        if points:
            if any(point.high > point.low for point in points):
                x, low, high = ([getattr(point, name) for point in points] for name in ("epoch", "low", "high"))
                _band(figure, x, low, high, style.colour, method.label, second=False)
            _mean_line(figure, points, method.label, style, second=False)
        similarity = over_seeds(method.similarity, band)
        if similarity:
            second = True
            _mean_line(figure, similarity, method.label, style, second=True)
    if second:
        _second_axis(figure, "Gradient similarity (cosine, dashed)")
    if teacher is not None and math.isfinite(teacher):
        # A trace and not a line of the layout: its words then stand in the legend, where no curve crosses them.
        last = max((curve.epoch[-1] for method in methods for curve in method.accuracy), default=1.0)
        figure.add_scatter(
            x=[0, epochs or last],
            y=[teacher, teacher],
            name=f"teacher, {teacher:.2f} %",
            mode="lines",
            line={"color": theme.GREY, "width": 1.5, "dash": "dot"},
            hoverinfo="skip",
        )
    if epochs:
        figure.update_xaxes(range=[0, epochs * 1.02])
    # Below the plot: at phone width the entries take several lines, which would push the plot down from above.
    figure.update_layout(legend={"y": -0.16, "yanchor": "top"})
    return figure


def seeds_figure(groups: Sequence[Group], unit: str) -> go.Figure | None:
    """The final values seed by seed, pairs joined, beside mean ± sd; None below two methods with a value."""
    drawn = [group for group in groups if group.values]
    if len(drawn) < 2:
        return None
    styles = theme.styles(group.label for group in groups)
    labels = [group.label for group in drawn]
    figure = _figure(f"Test accuracy after the last epoch ({unit})" if unit else "Last value", height=360)
    for seed in sorted({seed for group in drawn for seed in group.values}):
        values = [group.values.get(seed) for group in drawn]
        figure.add_scatter(
            x=labels,
            y=[None if value is None or not math.isfinite(value) else value for value in values],
            mode="lines+markers",
            line={"color": theme.faint(theme.GREY, 0.5), "width": 1},
            marker={"color": [styles[label].colour for label in labels], "size": 7, "opacity": 0.75},
            name=f"seed {seed}",
            hovertemplate="%{y:.2f}",
        )
    for group in drawn:
        if group.mean is None:
            continue
        figure.add_scatter(
            x=[group.label],
            y=[group.mean],
            mode="markers",
            marker={"symbol": "line-ew-open", "size": 26, "color": styles[group.label].colour, "line": {"width": 3}},
            error_y={"type": "data", "array": [group.sd or 0.0], "thickness": 1.5, "width": 6},
            name="mean ± sd",
            hovertemplate="%{y:.2f}" + (f" ± {group.sd:.2f}" if group.sd is not None else ""),
        )
    figure.update_layout(showlegend=False)
    figure.update_xaxes(title_text="", rangemode="normal", range=[-0.5, len(labels) - 0.5])
    return figure


def _mean_line(figure: go.Figure, points: Sequence[Point], label: str, style: theme.Style, *, second: bool) -> None:
    figure.add_scatter(
        x=[point.epoch for point in points],
        y=[point.mean for point in points],
        customdata=[[point.low, point.high, point.n] for point in points],
        name=f"{label}, similarity" if second else label,
        legendgroup=f"{label}, similarity" if second else label,
        showlegend=not second,
        mode="lines" if second else "lines+markers",
        marker={"size": 5, "symbol": style.symbol},
        line={"color": style.colour, "width": 1.5 if second else 2.5, "dash": "dash" if second else "solid"},
        opacity=0.75 if second else 1,
        yaxis="y2" if second else "y",
        hovertemplate=(
            "%{y:.4f} (n = %{customdata[2]})"
            if second
            else "%{y:.2f} % [%{customdata[0]:.2f}, %{customdata[1]:.2f}], n = %{customdata[2]}"
        ),
    )


def _band(
    figure: go.Figure,
    x: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    colour: str,
    group: str,
    *,
    second: bool,
) -> None:
    figure.add_scatter(
        x=[*x, *reversed(x)],
        y=_drawable([*high, *reversed(low)]),
        fill="toself",
        fillcolor=theme.faint(colour, 0.18),
        line={"width": 0},
        mode="lines",
        legendgroup=group,
        showlegend=False,
        hoverinfo="skip",
        yaxis="y2" if second else "y",
    )


def plain_figure(axis: str, x_axis: str, *, height: int) -> go.Figure:
    """An empty figure as all of them are: titles of its axes, legend above, zoom kept."""
    figure = _figure(axis, height=height)
    figure.update_xaxes(title_text=x_axis, rangemode="normal")
    return figure


def _figure(axis: str, *, height: int) -> go.Figure:
    import plotly.graph_objects as go

    return go.Figure(
        layout={
            "height": height,
            "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
            "hovermode": "x unified",
            "uirevision": "constant",
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "title": {"text": ""}},
            "xaxis": {"title": {"text": EPOCH}, "automargin": True, "rangemode": "tozero"},
            "yaxis": {"title": {"text": axis}, "automargin": True},
        }
    )


def _second_axis(figure: go.Figure, title: str) -> None:
    figure.update_layout(
        yaxis2={
            "title": {"text": title},
            "overlaying": "y",
            "side": "right",
            "showgrid": False,
            "zeroline": False,
            "automargin": True,
            # In step with the left axis, the theme's way, its ticks would be numbers such as 0.08297.
            "tickmode": "auto",
            "nticks": 7,
        }
    )


def _drawable(values: Sequence[float]) -> list[float | None]:
    """A gap where a value is NaN or infinite."""
    return [value if math.isfinite(value) else None for value in values]
