"""Figures of penultimate features: points in a plane, angles of class means, and measures over the epochs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.protocol.features import FeatureMap
from dashboard import theme
from dashboard.charts import figures
from dashboard.charts.prediction_figures import COLOUR_SCALE, class_map

if TYPE_CHECKING:
    import plotly.graph_objects as go

_SIDE, _SMALL_SIDE = 420, 330
"""Heights in px of a plane of points, of at most two and of more in a row."""
_COLOURS = (*theme.PALETTE, "#7B4BB7", "#8C564B", "#8FA51F", "#B3123F")
_MARGIN = 1.06
"""Half of the side of a plane, relative to its largest coordinate."""
_RIGHT_ANGLE = 90.0
_LARGEST_ANGLE = 180.0


@dataclass(frozen=True)
class Line:
    """A measure of one network over the epochs.

    Attributes:
        name: Name of the network.
        epochs: The epochs; none for a network that is not trained here, whose value is a line over all epochs.
        values: The values.
        style: Its style.
    """

    name: str
    epochs: Sequence[int]
    values: Sequence[float | None]
    style: theme.Style


def class_style(number: int) -> theme.Style:
    """Return colour and marker of a class by its number among at most 30 classes."""
    # Neighbouring classes differ in colour, and ten classes too. The marker changes more often, for grey print.
    symbol = theme.SYMBOLS[number // len(theme.PALETTE) % len(theme.SYMBOLS)]
    return theme.Style(_COLOURS[number % len(_COLOURS)], symbol)


def points_figure(found: FeatureMap, shown: Collection[str], item: str, *, small: bool = False) -> go.Figure:
    """Draw the items of one network as points, in the colours of their classes.

    Args:
        found: The points.
        shown: Names of the classes that are coloured; those of the others are grey.
        item: What an item of the data is called, such as an image.
        small: Whether more than two figures are in a row.
    """
    pca = found.projection == "pca"
    figure = figures.plain_figure(
        "Axis 2" if pca else "", "Axis 1" if pca else "", height=_SMALL_SIDE if small else _SIDE
    )
    order = sorted(range(len(found.classes)), key=lambda number: found.classes[number] in shown)
    for number in order:
        rows = [row for row, label in enumerate(found.label) if label == number]
        name, style = found.classes[number], class_style(number)
        coloured = name in shown
        figure.add_scatter(
            x=[found.x[row] for row in rows],
            y=[found.y[row] for row in rows],
            customdata=[found.item[row] for row in rows],
            mode="markers",
            name=figures.label_text(name),
            marker={
                "color": style.colour if coloured else theme.translucent(theme.GREY, 0.35),
                "symbol": style.symbol,
                "size": 6 if coloured else 4,
                "opacity": 0.85,
            },
            hovertemplate=f"{figures.label_text(item)} %{{customdata:,}}, class {figures.label_text(name)}"
            "<extra></extra>",
        )
    reach = found.extent or max((abs(value) for value in (*found.x, *found.y)), default=0.0)
    reach = (reach or 1.0) * _MARGIN
    # One unit has the same length along both axes, so that distances are drawn as they are.
    axis = {"range": [-reach, reach], "showticklabels": pca, "zeroline": False, "nticks": 5}
    figure.update_layout(hovermode="closest", showlegend=False)
    figure.update_xaxes(**axis, constrain="domain")
    figure.update_yaxes(**axis, scaleanchor="x", constrain="domain")
    return figure


def angles_figure(found: FeatureMap) -> go.Figure:
    """Draw the angles between the means of each two classes."""
    values = [[None if row == column else value for column, value in enumerate(line)] for row, line in _rows(found)]
    figure = class_map(values, found.classes, ("Class", "Class"), limits=(0, _LARGEST_ANGLE), bar="°")
    figure.data[0].update(colorscale=COLOUR_SCALE, hovertemplate="%{y}, %{x}: %{z:.0f}°<extra></extra>")
    return figure


def _rows(found: FeatureMap) -> list[tuple[int, list[float | None]]]:
    return list(enumerate(found.angles))


def measure_figure(
    lines: Sequence[Line], axis: str, unit: str, *, logarithmic: bool, ideal: float | None = None
) -> go.Figure:
    """Draw one measure of several networks over the epochs.

    Args:
        lines: The networks.
        axis: Title of the measure, with its unit.
        unit: Its unit, for the tooltips.
        logarithmic: Whether the axis is logarithmic.
        ideal: The value of full collapse, if it is not 0; drawn as a line.
    """
    figure = figures.plain_figure(axis, figures.EPOCH, height=260)
    last = max((epoch for line in lines for epoch in line.epochs), default=1)
    for line in lines:
        over = line.epochs or (0, last)
        values = list(line.values) if line.epochs else [*line.values[:1]] * 2
        figure.add_scatter(
            x=list(over),
            y=[None if value is None or (logarithmic and value <= 0) else value for value in values],
            name=figures.label_text(line.name),
            mode="lines+markers" if line.epochs else "lines",
            marker={"size": 5, "symbol": line.style.symbol},
            line={"color": line.style.colour, "width": 2, "dash": line.style.dash if line.epochs else "dash"},
            hovertemplate=f"%{{y:.4~g}}{figures.unit_text(unit)}",
        )
    if ideal is not None:
        figure.add_hline(
            y=ideal, line={"color": theme.translucent(theme.GREY, 0.7), "width": 1, "dash": theme.DASHES[2]}
        )
    if logarithmic:
        figure.update_yaxes(type="log", exponentformat="power", nticks=5)
    elif ideal is None:
        figure.update_yaxes(rangemode="tozero")
    figure.update_layout(showlegend=len(lines) > 1)
    figure.update_xaxes(range=[0, last * 1.02])
    return figure


def glyphs() -> Mapping[str, str]:
    """Return a character for each marker, for legends outside of a figure."""
    return dict(zip(theme.SYMBOLS, "●■◆▲✖★", strict=True))
