"""The figure of accuracy against cost, with intervals on both axes and the Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from client.costs import Candidate, CostAxis, front
from common.formatting import interval_text, value_text
from dashboard import theme
from dashboard.charts import figures

if TYPE_CHECKING:
    import plotly.graph_objects as go

_LOG_RATIO = 20
"""From this ratio of the largest cost to the smallest on, the axis of the cost is logarithmic."""
_TEACHER = "star"
_SYMBOLS = tuple(symbol for symbol in theme.SYMBOLS if symbol != _TEACHER)


def cost_figure(
    found: Sequence[Candidate], axis: CostAxis, title: str, styles: Mapping[str, theme.Style] | None = None
) -> go.Figure:
    """Draw the accuracy of candidates against a cost; a line leads through those of the Pareto front.

    Args:
        found: The candidates.
        axis: The cost.
        title: Title of the axis of the accuracy, with its unit.
        styles: Styles of the labels; by default those of labels that the catalog does not know. Networks of other
            models have other symbols.
    """
    figure = figures.plain_figure(title, axis.label, height=460)
    styles = styles or theme.styles(item.label for item in found)
    models = list(dict.fromkeys(item.model for item in found if not item.teacher))
    best = front(found, axis)
    figure.add_scatter(
        x=[item.cost(axis).value for item in best],
        y=[item.accuracy for item in best],
        mode="lines",
        line={"color": theme.GREY, "width": 1.5, "dash": "dot", "shape": "hv"},
        name="Pareto front",
        hoverinfo="skip",
    )
    for item in found:
        cost, style = item.cost(axis), styles[item.label]
        symbol = _TEACHER if item.teacher else _SYMBOLS[models.index(item.model) % len(_SYMBOLS)]
        error = {"type": "data", "symmetric": False, "thickness": 1.5, "width": 5, "color": style.colour}
        high, low = (item.interval.high, item.interval.low) if item.interval else (item.accuracy, item.accuracy)
        interval = f" {interval_text(item.interval, item.accuracy, signs=False)}" if item.interval else ""
        figure.add_scatter(
            x=[cost.value],
            y=[item.accuracy],
            error_x={**error, "array": [cost.high - cost.value], "arrayminus": [cost.value - cost.low]},
            error_y={**error, "array": [high - item.accuracy], "arrayminus": [item.accuracy - low]},
            mode="markers",
            marker={"size": 11, "color": style.colour, "symbol": symbol},
            name=figures.label_text(item.name if item.teacher else f"{item.name} ({item.model})"),
            hovertemplate=f"{value_text(item.accuracy, decimals=2)}{interval}{figures.unit_text(item.unit)}, "
            f"n = {item.n}<br>"
            f"{figures.label_text(axis.text(cost.value))}",
        )
    figure.update_layout(hovermode="closest", hoverlabel={"namelength": -1}, legend={"y": -0.18, "yanchor": "top"})
    values = [item.cost(axis).value for item in found]
    if min(values) > 0 and max(values) / min(values) > _LOG_RATIO:
        figure.update_xaxes(type="log")
    else:
        figure.update_xaxes(rangemode="tozero")
    return figure
