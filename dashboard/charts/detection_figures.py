"""Figures of a detector beside its teacher: AP of each class, AP lost to each kind of error, and calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from core.protocol.detections import DetectionSource, ScoreBin
from dashboard import theme
from dashboard.charts import figures
from dashboard.charts.bars import MOST_COLUMNS, Values, grouped_bars

if TYPE_CHECKING:
    import plotly.graph_objects as go

_COLOURS: Mapping[DetectionSource, str] = {"teacher": theme.GREY, "student": theme.BLUE}
"""Colours of the networks, in the order of their bars."""
_HEIGHT = 300


def ap_by_class_figure(values: Mapping[DetectionSource, Values], names: Mapping[DetectionSource, str]) -> go.Figure:
    """Draw AP of each class of the student as bars, beside the teacher's.

    Args:
        values: AP in % of each network, by class. A class without objects in the test split has no AP, and no bar.
        names: Names of the networks in the legend.
    """
    in_rows = len(values["student"]) > MOST_COLUMNS
    classes = list(values["student"])
    return grouped_bars(values, names, _COLOURS, classes, "AP (%)", in_rows=in_rows, texts=dict.fromkeys(classes, " %"))


def lost_ap_figure(
    values: Mapping[DetectionSource, Values], names: Mapping[DetectionSource, str], kinds: Sequence[str]
) -> go.Figure:
    """Draw how much AP each kind of error costs a network.

    Args:
        values: Lost AP in % of each network, by the title of the kind.
        names: Names of the networks in the legend.
        kinds: Titles of the kinds, from top to bottom.
    """
    units = dict.fromkeys(kinds, " %")
    return grouped_bars(values, names, _COLOURS, kinds, "Lost AP at IoU 0.5 (%)", in_rows=True, texts=units)


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
