"""Figures of a sweep, as pure functions: heat map, slices, parallel coordinates, importance, coloured curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from common.formatting import mean_text, value_text
from dashboard import theme
from dashboard.charts import figures
from dashboard.charts.comparison_charts import average_over_seeds
from dashboard.curves.curve import Curve
from dashboard.markup import figure_text
from dashboard.sweeps.settings import Point, Scale

if TYPE_CHECKING:
    import plotly.graph_objects as go

_COLOURS = "Viridis"
"""Distinguishable for colour-blind people, and monotonic in lightness, so that it survives grey print."""
_ENDS = (0.18, 0.9)
_MAX_NAMED = 12
"""More values of a field than this are not named in a legend."""


def heat_map(points: Sequence[Point], across: Scale, down: Scale, axis: str, unit: str = "") -> go.Figure | None:
    """Draw the mean result by two fields; each cell is the mean of the settings in it. None without results.

    Args:
        points: Settings with a result.
        across: Field of the x axis.
        down: Field of the y axis.
        axis: Title of the result, with its unit.
        unit: Its unit, for the tooltips.
    """
    columns, lines = across.texts, down.texts
    cells: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        cells.setdefault((point.text(down.field.path), point.text(across.field.path)), []).append(point)
    if not cells:
        return None
    means = [[_mean(cells.get((line, column), [])) for column in columns] for line in lines]
    counts = [[len(cells.get((line, column), [])) for column in columns] for line in lines]
    figure = figures.plain_figure(down.field.path, across.field.path, height=min(200 + 44 * len(lines), 700))
    figure.add_heatmap(
        x=[figure_text(column) for column in columns],
        y=[figure_text(line) for line in lines],
        z=means,
        customdata=counts,
        text=[["" if value is None else value_text(value, decimals=2) for value in line] for line in means],
        texttemplate="%{text}",
        colorscale=_COLOURS,
        colorbar={"title": {"text": figure_text(axis), "side": "right"}},
        hovertemplate=f"%{{y}}, %{{x}}: %{{z:.6~g}}{figures.unit_text(unit)}, "
        "mean of %{customdata} setting(s)<extra></extra>",
        hoverongaps=False,
        xgap=2,
        ygap=2,
    )
    figure.update_layout(hovermode="closest")
    figure.update_xaxes(type="category")
    figure.update_yaxes(type="category")
    return figure


def _mean(points: Sequence[Point]) -> float | None:
    values = [point.mean for point in points if point.mean is not None]
    return math.fsum(values) / len(values) if values else None


def slice_figure(points: Sequence[Point], scale: Scale, axis: str, unit: str = "") -> go.Figure:
    """Draw the result of every setting over one field, with ± one sd over its seeds.

    Args:
        points: Settings with a result.
        scale: The field.
        axis: Title of the result, with its unit.
        unit: Its unit, for the tooltips.
    """
    shown = [point for point in points if scale.position(point) is not None]
    figure = figures.plain_figure(axis, scale.field.path, height=300)
    figure.add_scatter(
        x=[scale.position(point) if scale.numeric else figure_text(point.text(scale.field.path)) for point in shown],
        y=[point.mean for point in shown],
        error_y={"type": "data", "array": [point.result.sd for point in shown], "thickness": 1, "width": 4},
        mode="markers",
        marker={"size": 9, "color": theme.BLUE, "opacity": 0.7},
        text=[_about(point, unit) for point in shown],
        meta={"links": [_address(point) for point in shown]},
        hovertemplate="%{text}<extra></extra>",
    )
    figure.update_layout(showlegend=False, hovermode="closest")
    if not scale.numeric:
        figure.update_xaxes(type="category", categoryorder="array", categoryarray=[*map(figure_text, scale.texts)])
    elif scale.log:
        figure.update_xaxes(type="log")
    return figure


def _about(point: Point, unit: str) -> str:
    result = f"{mean_text(point.mean, point.result.sd)}{figures.unit_text(unit)}, n = {point.result.n}"
    return f"{figure_text(point.setting.name)}<br>{result}"


def _address(point: Point) -> str:
    return figures.experiment_address(point.setting.experiment_id)


def parallel_figure(points: Sequence[Point], scales: Sequence[Scale], axis: str, unit: str = "") -> go.Figure | None:
    """Draw each setting as a line through its values and its result, coloured by the result; None without results.

    Plotly's own parallel coordinates need WebGL, which remote desktops and some browsers lack.

    Args:
        points: Settings with a result.
        scales: The fields, from left to right.
        axis: Title of the result, with its unit.
        unit: Its unit, for the tooltips.
    """
    shown = [point for point in points if all(scale.position(point) is not None for scale in scales)]
    if not shown:
        return None
    figure = figures.plain_figure("", "", height=460)
    means = [point.mean or 0.0 for point in shown]
    low, high = min(means), max(means)
    columns = [*(_shares(scale, shown) for scale in scales), _between_ends(means)]
    lines = zip(shown, zip(*columns, strict=True), strict=True)
    for point, places in sorted(lines, key=lambda item: item[1][-1]):  # the highest on top
        figure.add_scatter(
            x=list(range(len(places))),
            y=list(places),
            mode="lines+markers",
            line={"color": colour_of(places[-1]), "width": 2},
            marker={"size": 7},
            text=[_about(point, unit)] * len(places),
            meta={"link": _address(point)},
            hovertemplate="%{text}<extra></extra>",
        )
    ticks = [(value_text(mean, decimals=2), place) for mean, place in ((low, 0.0), (high, 1.0))] if high > low else []
    named_places = [_ticks(scale, shown, column) for scale, column in zip(scales, columns, strict=False)]
    for index, named in enumerate([*named_places, ticks]):
        figure.add_vline(x=index, line={"color": theme.GREY, "width": 1})
        for text, place in named:
            # Beyond the lines that end there, so that none passes through the text of the ends.
            above = place >= 0.5
            figure.add_annotation(
                x=index,
                y=place,
                text=figure_text(text),
                showarrow=False,
                xshift=-6,
                yshift=1 if above else -1,
                xanchor="right",
                yanchor="bottom" if above else "top",
                font={"size": 11},
            )
    titles = [figure_text(title) for title in (*(scale.field.path for scale in scales), axis)]
    figure.update_layout(showlegend=False, hovermode="closest")
    figure.update_xaxes(
        tickvals=list(range(len(titles))), ticktext=titles, range=[-0.4, len(titles) - 0.7], showgrid=False
    )
    figure.update_yaxes(visible=False, range=[-0.06, 1.06])
    return figure


def _ticks(scale: Scale, points: Sequence[Point], shares: Sequence[float]) -> list[tuple[str, float]]:
    """Return the values of an axis with their places: all of them, or the ends of many."""
    by_place = {place: point.text(scale.field.path) for point, place in zip(points, shares, strict=True)}
    places = sorted(by_place)
    if len(places) > _MAX_NAMED:
        places = [places[0], places[-1]]
    return [(by_place[place], place) for place in places]


def importance_figure(shares: Mapping[str, float]) -> go.Figure:
    """Draw the share of each field, the greatest on top."""
    ordered = sorted(shares.items(), key=lambda item: item[1])
    figure = figures.plain_figure("", "Share of the explained variance", height=110 + 34 * len(ordered))
    figure.add_bar(
        x=[share for _, share in ordered],
        y=[figure_text(path) for path, _ in ordered],
        orientation="h",
        marker={"color": theme.BLUE},
        text=[f"{100 * share:.0f} %" for _, share in ordered],
        textposition="auto",
        hovertemplate="%{y}: %{x:.1%}<extra></extra>",
    )
    figure.update_layout(showlegend=False, hovermode="closest")
    figure.update_xaxes(range=[0, 1], tickformat=".0%")
    figure.update_yaxes(type="category")
    return figure


def curves_figure(
    points: Sequence[Point], curves: Mapping[str, Sequence[Curve]], scale: Scale, axis: str, unit: str = ""
) -> go.Figure | None:
    """Draw the mean curve over the seeds of each setting, coloured by its value of one field; None without curves.

    Args:
        points: The settings.
        curves: Curves of the runs of each setting, by the experiment's id.
        scale: The field that gives the colour.
        axis: Title of the metric, with its unit.
        unit: Its unit, for the tooltips.
    """
    shown = [point for point in points if curves.get(point.setting.experiment_id) and scale.position(point) is not None]
    if not shown:
        return None
    texts = [text for text in scale.texts if text in {point.text(scale.field.path) for point in shown}]
    figure = figures.plain_figure(axis, figures.EPOCH, height=460)
    named: set[str] = set()
    for point, share in zip(shown, _shares(scale, shown), strict=True):
        average = average_over_seeds(curves[point.setting.experiment_id])
        if not average:
            continue
        text = point.text(scale.field.path)
        figure.add_scatter(
            x=[item.x for item in average],
            y=[item.mean for item in average],
            mode="lines",
            line={"color": colour_of(share), "width": 2},
            name=figure_text(text),
            legendgroup=text,
            showlegend=len(texts) <= _MAX_NAMED and text not in named,
            text=[figure_text(point.setting.name)] * len(average),
            meta={"link": _address(point)},
            hovertemplate=f"%{{text}}: %{{y:.4g}}{figures.unit_text(unit)} at epoch %{{x:.4~g}}<extra></extra>",
        )
        named.add(text)
    if scale.numeric and len(texts) > _MAX_NAMED:
        _colour_bar(figure, scale, shown)
    figure.update_layout(
        hovermode="closest", legend={"y": -0.18, "yanchor": "top", "title": {"text": figure_text(scale.field.path)}}
    )
    figure.update_xaxes(rangemode="tozero")
    return figure


def _shares(scale: Scale, points: Sequence[Point]) -> list[float]:
    """Return where the value of each setting is between the smallest and the largest one, 0 to 1."""
    positions = [scale.position(point) or 0.0 for point in points]
    return _between_ends([math.log10(position) for position in positions] if scale.log else positions)


def _between_ends(values: Sequence[float]) -> list[float]:
    """Return values as shares of the way from the smallest to the largest; 0.5 if all are equal."""
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high > low else 0.5 for value in values]


def colour_of(share: float) -> str:
    """Return the colour of a share from 0 to 1, without the ends of the scale, which a dark or a light page hides."""
    from plotly.colors import sample_colorscale

    colour: str = sample_colorscale(_COLOURS, [_ENDS[0] + (_ENDS[1] - _ENDS[0]) * min(max(share, 0.0), 1.0)])[0]
    return colour


def _colour_bar(figure: go.Figure, scale: Scale, points: Sequence[Point]) -> None:
    """Add the scale of colours: a trace without points."""
    positions = [scale.position(point) or 0.0 for point in points]
    ends = [math.log10(value) if scale.log else value for value in (min(positions), max(positions))]
    whole = (ends[1] - ends[0]) / (_ENDS[1] - _ENDS[0])
    title = f"{scale.field.path}, log10" if scale.log else scale.field.path
    figure.add_scatter(
        x=[None],
        y=[None],
        mode="markers",
        showlegend=False,
        hoverinfo="skip",
        marker={
            "color": [ends[0]],
            "cmin": ends[0] - whole * _ENDS[0],
            "cmax": ends[1] + whole * (1 - _ENDS[1]),
            "colorscale": _COLOURS,
            "showscale": True,
            "colorbar": {"title": {"text": figure_text(title), "side": "right"}},
        },
    )
