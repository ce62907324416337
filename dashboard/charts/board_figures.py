"""The small figures of Compare's board, as pure functions. All of them share the x axis, and one legend."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dashboard import theme
from dashboard.charts import figures
from dashboard.charts.comparison_charts import (
    X_AXIS_TITLES,
    ChartSettings,
    MethodCurves,
    curves_figure,
    smooth,
    x_values,
)
from dashboard.curves.curve import Curve
from dashboard.families import MANY
from dashboard.markup import html

if TYPE_CHECKING:
    import plotly.graph_objects as go

_HEIGHT = 270
_MOST_IN_TOOLTIP = 5
"""A tooltip about more lines would cover the figure."""
_GLYPHS: Mapping[str, str] = {
    "circle": "●",
    "square": "■",
    "diamond": "◆",
    "triangle-up": "▲",
    "x": "✕",
    "star": "★",
}
"""Characters that look like Plotly's markers."""
_BORDERS: Mapping[str, str] = {"solid": "solid", "dot": "dotted"}
"""Styles of CSS for Plotly's dashes; all others are dashed."""


@dataclass(frozen=True)
class BoardRun:
    """The curves of one run in one figure.

    Attributes:
        run_id: Id of the run.
        seed: Its seed.
        main: Curve of the left axis; None if the run has not measured the metric.
        second: Curve of the right axis; None if there is none.
    """

    run_id: str
    seed: int
    main: Curve | None
    second: Curve | None = None


@dataclass(frozen=True)
class BoardMethod:
    """The runs of one curve of a board.

    Attributes:
        label: Label of the curve.
        runs: Its runs.
        family: Family of the method.
        link: Address that a click on the mean over several runs opens.
    """

    label: str
    runs: Sequence[BoardRun]
    family: str = ""
    link: str = ""

    @property
    def main(self) -> list[Curve]:
        return [run.main for run in self.runs if run.main is not None and len(run.main)]

    @property
    def second(self) -> list[Curve]:
        return [run.second for run in self.runs if run.second is not None and len(run.second)]


@dataclass(frozen=True)
class BoardAxes:
    """The axes of one figure.

    Attributes:
        titles: Titles of the left and of the right axis.
        units: Units of the two axes.
        board: Identifies the board: the figures of one share a zoom of the x axis.
        end: Value that the x axis reaches, the same in all figures; 0 to fit the data.
        teacher: The teacher's value on the left axis; None for none.
    """

    titles: tuple[str, str]
    units: tuple[str, str]
    board: str = ""
    end: float = 0.0
    teacher: float | None = None


def board_figure(
    methods: Sequence[BoardMethod],
    axes: BoardAxes,
    settings: ChartSettings,
    styles: Mapping[str, theme.Style],
    *,
    every_run: bool = False,
) -> go.Figure:
    """Draw one metric of all methods.

    Args:
        methods: The methods, of which at least one has points.
        axes: The axes.
        settings: Settings of the curves.
        styles: Styles of the labels.
        every_run: Draw a line per run, which a click opens, instead of the mean over seeds with its band.
    """
    drawn = [
        MethodCurves(
            method.label,
            method.main,
            method.second,
            method.family,
            figures.run_address(method.runs[0].run_id) if len(method.runs) == 1 else method.link,
        )
        for method in methods
    ]
    if every_run:
        figure = curves_figure([], axes.titles, settings, teacher=axes.teacher, units=axes.units, styles={})
        for method in methods:
            _lines_of_runs(figure, method, axes, settings, styles[method.label])
        if any(method.second for method in methods):
            figures.second_axis(figure, axes.titles[1])
    else:
        figure = curves_figure(drawn, axes.titles, settings, teacher=axes.teacher, units=axes.units, styles=styles)
    if axes.teacher is not None:
        # The line of the teacher's result is as long as the axis.
        figure.update_traces(x=[0, axes.end], selector=lambda trace: (trace.name or "").startswith("teacher, "))
    for name, title in zip(("yaxis", "yaxis2"), axes.titles, strict=True):
        if name == "yaxis" or any(method.second for method in methods):
            figure.update_layout({name: {"title": {"text": figures.label_text(title), "font": {"size": 12}}}})
    # The one legend is above the figures. A downloaded figure has its own.
    figure.update_layout(height=_HEIGHT, showlegend=False, meta={"board": axes.board, "legend": True})
    lines = sum(bool(method.main) + bool(method.second) for method in methods)
    closest = every_run or lines > _MOST_IN_TOOLTIP
    if closest and not every_run and len(methods) <= MANY:  # of more methods, the texts have it already
        for trace in figure.data:
            if trace.meta and trace.hovertemplate:
                trace.hovertemplate += ", at %{x:.4~g}"
    figure.update_layout(hovermode="closest" if closest else "x unified", hoverlabel={"namelength": -1})
    # No fixed range: a later one would undo a person's zoom.
    figure.update_xaxes(autorangeoptions={"include": [0, axes.end]})
    return figure


def _lines_of_runs(
    figure: go.Figure, method: BoardMethod, axes: BoardAxes, settings: ChartSettings, style: theme.Style
) -> None:
    label = figures.label_text(method.label)
    first = True
    for run in method.runs:
        for curve, second in ((run.main, False), (run.second, True)):
            if curve is None or not len(curve):
                continue
            figure.add_scatter(
                x=[*x_values(curve, settings)],
                y=figures.nonfinite_to_none(smooth(curve.value, settings.smoothing)),
                name=label,
                meta={"method": label, "link": figures.run_address(run.run_id)},
                legendgroup=label,
                showlegend=first,
                mode="lines" if second else "lines+markers",
                marker={"size": 5, "symbol": style.symbol, "maxdisplayed": 12},
                line={"color": style.colour, "width": 1.25, "dash": "dash" if second else style.dash},
                opacity=0.7,
                yaxis="y2" if second else "y",
                hovertemplate=f"%{{y:.4g}}{figures.unit_text(axes.units[second])}, seed {run.seed}, at %{{x:.4~g}}",
            )
            first = False


def has_points(methods: Iterable[BoardMethod]) -> bool:
    """Return whether any run has a finite value on the left axis."""
    return any(math.isfinite(value) for method in methods for curve in method.main for value in curve.value)


def axis_end(curves: Iterable[Curve], settings: ChartSettings, total: float, *, live: bool) -> float:
    """Return the value that the shared x axis reaches.

    Args:
        curves: The curves of all figures.
        settings: Settings of the curves, with the quantity of the axis.
        total: Greatest number of epochs of a run; 0 if unknown.
        live: Whether runs still train. The axis then ends a little beyond what there is.
    """
    last = max((x_values(curve, settings)[-1] for curve in curves if len(curve)), default=0.0)
    total = total if settings.x == "epochs" else 0.0
    return figures.later_end(last, total) if live else max(last, total)


def legend_html(labels: Iterable[str], styles: Mapping[str, theme.Style]) -> str:
    """Return the legend of all figures: marker, line and label of each method."""
    entries = "".join(
        f'<li><span class="dkd-line" style="color: {html(styles[label].colour)}; '
        f'border-style: {html(_BORDERS.get(styles[label].dash, "dashed"))}">'
        f"{html(_GLYPHS.get(styles[label].symbol, '●'))}</span>"
        f"{html(label)}</li>"
        for label in labels
    )
    return f'<ul class="dkd-board-legend">{entries}</ul>'


def axis_title(settings: ChartSettings) -> str:
    """Return the title of the shared x axis."""
    return X_AXIS_TITLES[settings.x]
