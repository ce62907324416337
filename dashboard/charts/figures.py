"""Plotly figures of curves, as pure functions.

Every axis title contains its unit. ``uirevision`` is constant, so that a refresh keeps the zoom and the hidden traces.
This module sets only the colours of traces: the browser sets grid, text and background by the light or dark mode of the
page (``dashboard.charts.chart_component``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from common.formatting import mean_text
from core.protocol.public import MethodResult, RunSummary
from dashboard import theme
from dashboard.charts.panels import Panel
from dashboard.curves.curve import Curve
from dashboard.families import MANY
from dashboard.markup import figure_text

if TYPE_CHECKING:
    import plotly.graph_objects as go

EPOCH = "Epoch"
_MAX_LINKED = 60
"""Greatest number of runs in the address that a click opens."""
_BEYOND = 1.08
"""While runs train, the x axis ends at this multiple of the last point."""


def run_figure(panel: Panel, curves: Mapping[str, Curve], item: str = "image") -> go.Figure | None:
    """Draw one panel of a run over epochs; None if the run has none of the panel's metrics.

    Args:
        panel: The panel.
        curves: The curves of the run by metric.
        item: What an item of the run's data is called.
    """
    traces = [(trace, curves[trace.metric]) for trace in panel.drawn(curves)]
    if not traces:
        return None
    figure = _figure(panel.axis, height=300)
    second = any(trace.second for trace, _ in traces)
    for trace, curve in traces:
        if curve.resolution > 1:
            band(figure, curve.epoch, curve.low, curve.high, trace.colour, trace.metric, second=trace.second)
        figure.add_scatter(
            x=curve.epoch,
            y=nonfinite_to_none(curve.value),
            name=label_text(trace.legend(curves, item)),
            legendgroup=trace.metric,
            mode="lines+markers" if len(curve) <= 40 else "lines",
            marker={"size": 5},
            line={"color": trace.colour, "dash": trace.dash, "width": 2},
            yaxis="y2" if trace.second else "y",
            hovertemplate=f"%{{y:.4g}}{unit_text(trace.unit)}",
        )
    if second:
        second_axis(figure, panel.second_axis)
    if panel.from_zero:
        figure.update_layout(yaxis={"rangemode": "tozero"})
    # The axis of a panel of several metrics does not name the only one that is drawn.
    figure.update_layout(showlegend=len(panel.traces) > 1)
    return figure


def seeds_figure(
    groups: Sequence[MethodResult], axis: str, styles: Mapping[str, theme.Style] | None = None, unit: str = ""
) -> go.Figure | None:
    """Draw final values by method, joined by seed, with mean ± sd; None if fewer than two methods have values.

    Many methods are rows from top to bottom and are not joined by seed.

    Args:
        groups: Results of the methods.
        axis: Title of the axis of values, with its unit.
        styles: Styles of the labels; by default those of labels that the catalog does not know.
        unit: Unit of the values, for the tooltips.
    """
    shown_groups = [group for group in groups if group.values]
    if len(shown_groups) < 2:
        return None
    styles = styles or theme.styles(group.label for group in groups)
    if len(shown_groups) > MANY:
        return _seeds_in_rows(shown_groups, axis, styles, unit)
    labels = [label_text(group.label) for group in shown_groups]
    marks = [styles[group.label].colour for group in shown_groups]
    figure = _figure(axis, height=360)
    runs = {(group.label, run.seed): run.run_id for group in shown_groups for run in group.runs}
    for seed in sorted({seed for group in shown_groups for seed in group.values}):
        values = [group.values.get(seed) for group in shown_groups]
        figure.add_scatter(
            x=labels,
            y=[None if value is None or not math.isfinite(value) else value for value in values],
            mode="lines+markers",
            line={"color": theme.translucent(theme.GREY, 0.5), "width": 1},
            marker={"color": marks, "size": 7, "opacity": 0.75},
            name=f"seed {seed}",
            meta={"links": [run_address(runs.get((group.label, seed))) for group in shown_groups]},
            hovertemplate=f"%{{y:.6~g}}{unit_text(unit)}",
        )
    for group in shown_groups:
        if group.mean is None:
            continue
        figure.add_scatter(
            x=[label_text(group.label)],
            y=[group.mean],
            mode="markers",
            marker={"symbol": "line-ew-open", "size": 26, "color": styles[group.label].colour, "line": {"width": 3}},
            error_y={"type": "data", "array": [group.sd or 0.0], "thickness": 1.5, "width": 6},
            name="mean ± sd",
            hovertemplate=mean_text(group.mean, group.sd) + unit_text(unit),
        )
    figure.update_layout(showlegend=False)
    figure.update_xaxes(title_text="", type="category", rangemode="normal", range=[-0.5, len(labels) - 0.5])
    return figure


def _seeds_in_rows(
    groups: Sequence[MethodResult], axis: str, styles: Mapping[str, theme.Style], unit: str
) -> go.Figure:
    figure = plain_figure("", axis, height=110 + 26 * len(groups))
    for group in reversed(groups):
        colour, label = styles[group.label].colour, label_text(group.label)
        values = [value for value in group.values.values() if math.isfinite(value)]
        runs = {run.seed: run.run_id for run in group.runs}
        figure.add_scatter(
            x=values,
            y=[label] * len(values),
            customdata=[seed for seed, value in group.values.items() if math.isfinite(value)],
            mode="markers",
            marker={"color": colour, "size": 7, "opacity": 0.6},
            name=label,
            meta={
                "links": [run_address(runs.get(seed)) for seed, value in group.values.items() if math.isfinite(value)]
            },
            hovertemplate=f"%{{x:.6~g}}{unit_text(unit)}, seed %{{customdata}}",
        )
        if group.mean is not None:
            figure.add_scatter(
                x=[group.mean],
                y=[label],
                mode="markers",
                marker={"symbol": "line-ns-open", "size": 15, "color": colour, "line": {"width": 3}},
                error_x={"type": "data", "array": [group.sd or 0.0], "thickness": 1.5, "width": 5, "color": colour},
                name=label,
                hovertemplate=mean_text(group.mean, group.sd) + unit_text(unit),
            )
    figure.update_layout(showlegend=False, hovermode="closest", hoverlabel={"namelength": -1})
    figure.update_yaxes(type="category", range=[-0.6, len(groups) - 0.4])
    return figure


def run_address(run_id: str | None) -> str:
    """Return the address that a click on a point of this run opens; empty for none."""
    return f"run?{urlencode({'id': run_id})}" if run_id else ""


def experiment_address(experiment_id: str) -> str:
    """Return the address that a click on a point of this experiment opens."""
    return f"experiment?{urlencode({'id': experiment_id})}"


def curve_address(runs: Sequence[RunSummary]) -> str:
    """Return the address that a click on a curve opens: of its run, of its experiment, or of its runs side by side."""
    if len(runs) == 1:
        return run_address(runs[0].id)
    ids = {run.experiment_id for run in runs}
    if len(ids) == 1 and "" not in ids:
        return experiment_address(ids.pop())
    return f"compare?{urlencode([('run', run.id) for run in runs])}" if len(runs) <= _MAX_LINKED else ""


def band(
    figure: go.Figure,
    x: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    colour: str,
    group: str,
    *,
    second: bool = False,
    opacity: float = 1,
) -> None:
    """Draw a translucent area between ``low`` and ``high``, which is shown and hidden with the traces of ``group``."""
    figure.add_scatter(
        x=[*x, *reversed(x)],
        y=nonfinite_to_none([*high, *reversed(low)]),
        fill="toself",
        fillcolor=theme.translucent(colour, 0.18),
        line={"width": 0},
        mode="lines",
        opacity=opacity,
        meta={"method": group} if opacity == 0 else None,
        legendgroup=group,
        showlegend=False,
        hoverinfo="skip",
        yaxis="y2" if second else "y",
    )


def later_end(last: float, total: float = 0.0) -> float:
    """Return where the x axis ends while runs train: a little beyond the last point, at most at the total.

    Args:
        last: Position of the last point.
        total: The greatest position; 0 if unknown.
    """
    end = last * _BEYOND
    return min(end, total) if total else end


def label_text(label: str) -> str:
    """Escape a label, so that Plotly shows it literally."""
    return figure_text(label)


def unit_text(unit: str) -> str:
    """Return a unit with the space before it, for a tooltip; empty without a unit."""
    return f" {figure_text(unit)}" if unit else ""


def plain_figure(axis: str, x_axis: str, *, height: int) -> go.Figure:
    """Return an empty figure with the common layout: axis titles, a legend above the plot, and a persistent zoom."""
    figure = _figure(axis, height=height)
    figure.update_xaxes(title_text=label_text(x_axis), rangemode="normal")
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
            "yaxis": {"title": {"text": label_text(axis)}, "automargin": True},
        }
    )


def second_axis(figure: go.Figure, title: str) -> None:
    """Add a right axis for traces on ``y2``."""
    figure.update_layout(
        yaxis2={
            "title": {"text": label_text(title)},
            "overlaying": "y",
            "side": "right",
            "showgrid": False,
            "zeroline": False,
            "automargin": True,
            # The theme would align the ticks with those of the left axis, at numbers such as 0.08297.
            "tickmode": "auto",
            "nticks": 7,
        }
    )


def nonfinite_to_none(values: Sequence[float]) -> list[float | None]:
    """Replace NaN and infinities by None, which Plotly draws as gaps."""
    return [value if math.isfinite(value) else None for value in values]
