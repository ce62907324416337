"""Figures of a detector beside its teacher: AP of each class, AP lost to each kind of error, and calibration."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from core.protocol.detections import DetectionSource, ScoreBin
from dashboard import theme
from dashboard.charts import figures

if TYPE_CHECKING:
    import plotly.graph_objects as go

Values = Mapping[str, float]
"""Numbers in %, by class or by kind of error."""

MOST_COLUMNS = 12
"""Largest number of classes that are columns; more of them are rows."""
_COLOURS: Mapping[DetectionSource, str] = {"teacher": theme.GREY, "student": theme.BLUE}
"""Colours of the networks, in the order of their bars."""
_HEIGHT = 300
_LABEL_WIDTH = 18
"""Number of characters after which the label of a row is broken into lines, so that bars have room on a phone."""


def ap_by_class_figure(values: Mapping[DetectionSource, Values], names: Mapping[DetectionSource, str]) -> go.Figure:
    """Draw AP of each class of the student as bars, beside the teacher's.

    Args:
        values: AP in % of each network, by class. A class without objects in the test split has no AP, and no bar.
        names: Names of the networks in the legend.
    """
    return _bars(values, names, list(values["student"]), "AP (%)", in_rows=len(values["student"]) > MOST_COLUMNS)


def lost_ap_figure(
    values: Mapping[DetectionSource, Values], names: Mapping[DetectionSource, str], kinds: Sequence[str]
) -> go.Figure:
    """Draw how much AP each kind of error costs a network.

    Args:
        values: Lost AP in % of each network, by the title of the kind.
        names: Names of the networks in the legend.
        kinds: Titles of the kinds, from top to bottom.
    """
    return _bars(values, names, kinds, "Lost AP at IoU 0.5 (%)", in_rows=True)


def calibration_figure(
    bins: Mapping[DetectionSource, Sequence[ScoreBin]], names: Mapping[DetectionSource, str]
) -> go.Figure:
    """Draw how many detections of a mean score are right; scores that agree with that are on the diagonal.

    Args:
        bins: Ranges of the score of each network.
        names: Names of the networks in the legend.
    """
    figure = figures.plain_figure("Right detections (%)", "Mean score", height=_HEIGHT)
    figure.add_scatter(
        x=[0, 1],
        y=[0, 100],
        mode="lines",
        line={"color": theme.translucent(theme.GREY, 0.6), "dash": "dot", "width": 1},
        showlegend=False,
        hoverinfo="skip",
    )
    most = max((item.detections for of_network in bins.values() for item in of_network), default=1)
    for source, colour in _COLOURS.items():
        if found := bins.get(source):
            figure.add_scatter(
                x=[item.score for item in found],
                y=[100 * item.right for item in found],
                customdata=[[item.low, item.high, item.detections] for item in found],
                mode="lines+markers",
                name=figures.label_text(names[source]),
                line={"color": colour, "width": 1.5},
                # The area of a marker shows the number of detections; the least one can still be seen.
                marker={"color": colour, "size": [4 + 9 * math.sqrt(item.detections / most) for item in found]},
                hovertemplate="%{y:.1f} % of %{customdata[2]:,} with a score from %{customdata[0]:.2f} to "
                "%{customdata[1]:.2f}",
            )
    figure.update_layout(hovermode="closest", showlegend=len(bins) > 1)
    figure.update_xaxes(range=[0, 1.03])
    figure.update_yaxes(range=[0, 104])
    return figure


def _bars(
    values: Mapping[DetectionSource, Values],
    names: Mapping[DetectionSource, str],
    labels: Sequence[str],
    axis: str,
    *,
    in_rows: bool,
) -> go.Figure:
    height = max(_HEIGHT, 90 + 28 * len(labels)) if in_rows else _HEIGHT
    figure = figures.plain_figure("" if in_rows else axis, axis if in_rows else "", height=height)
    categories = [_lines(label) if in_rows else figures.label_text(label) for label in labels]
    # The last bar of a group is drawn at the top.
    for source in list(_COLOURS)[:: -1 if in_rows else 1]:
        if own := values.get(source):
            numbers = figures.nonfinite_to_none([own.get(label, math.nan) for label in labels])
            figure.add_bar(
                x=numbers if in_rows else categories,
                y=categories if in_rows else numbers,
                orientation="h" if in_rows else "v",
                name=figures.label_text(names[source]),
                marker={"color": _COLOURS[source]},
                hovertemplate="%{x:.2f}" if in_rows else "%{y:.2f}",
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
