"""Bars of several networks side by side, by class or by kind."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from dashboard.charts import figures

if TYPE_CHECKING:
    import plotly.graph_objects as go

Source = TypeVar("Source", bound=str)
"""What identifies a network."""
Values = Mapping[str, float]
"""Numbers by class or by kind."""

MOST_COLUMNS = 12
"""Largest number of classes that are columns; more of them are rows."""
_HEIGHT = 300
_LABEL_WIDTH = 18
"""Number of characters after which the label of a row is broken into lines, so that bars have room on a phone."""


def grouped_bars(
    values: Mapping[Source, Values],
    names: Mapping[Source, str],
    colours: Mapping[Source, str],
    labels: Sequence[str],
    axis: str,
    *,
    in_rows: bool,
    texts: Mapping[str, str] | None = None,
) -> go.Figure:
    """Draw numbers of networks as bars.

    Args:
        values: Numbers of each network, by label. A label without a number has no bar.
        names: Names of the networks in the legend.
        colours: Colours of the networks, in the order of their bars.
        labels: The labels, from left to right or from top to bottom.
        axis: Title of the axis of values, with the unit.
        in_rows: Whether labels are rows instead of columns.
        texts: What follows a number in its tooltip, by label: its unit, and what it is of.
    """
    height = max(_HEIGHT, 90 + 28 * len(labels)) if in_rows else _HEIGHT
    figure = figures.plain_figure("" if in_rows else axis, axis if in_rows else "", height=height)
    categories = [_lines(label) if in_rows else figures.label_text(label) for label in labels]
    # The last bar of a group is drawn at the top.
    for source in list(colours)[:: -1 if in_rows else 1]:
        if own := values.get(source):
            numbers = figures.nonfinite_to_none([own.get(label, math.nan) for label in labels])
            figure.add_bar(
                x=numbers if in_rows else categories,
                y=categories if in_rows else numbers,
                orientation="h" if in_rows else "v",
                name=figures.label_text(names[source]),
                marker={"color": colours[source]},
                customdata=[figures.label_text((texts or {}).get(label, "")) for label in labels],
                hovertemplate=("%{x:.2f}" if in_rows else "%{y:.2f}") + ("%{customdata}" if texts else ""),
            )
    if in_rows:
        figure.update_layout(hovermode="y unified", legend={"traceorder": "reversed"})
        figure.update_xaxes(rangemode="tozero")
        figure.update_yaxes(type="category", categoryorder="array", categoryarray=categories[::-1])
    else:
        figure.update_xaxes(type="category")
        figure.update_yaxes(rangemode="tozero")
    figure.update_layout(barmode="group", showlegend=len(values) > 1)
    return figure


def _lines(label: str) -> str:
    return "<br>".join(map(figures.label_text, textwrap.wrap(label, _LABEL_WIDTH))) or figures.label_text(label)
