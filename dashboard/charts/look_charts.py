"""The figure of seeds that are added until the comparisons are decided: each look at each method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from common.formatting import signed
from core.protocol.sequential import Sequential
from dashboard import theme
from dashboard.charts import figures

if TYPE_CHECKING:
    import plotly.graph_objects as go


def looks_figure(
    sequential: Sequential, axis: str, styles: Mapping[str, theme.Style], unit: str = ""
) -> go.Figure | None:
    """Draw the mean difference of each method after each seed with its interval; None before the first look.

    Horizontal lines mark zero and the difference that matters: an interval decides when it excludes the former, or lies
    within the latter.

    Args:
        sequential: The looks.
        axis: Title of the axis of differences, with its unit.
        styles: Styles of the labels.
        unit: Unit of a difference, for the tooltips.
    """
    with_interval = ((item, [look for look in item.looks if look.low is not None]) for item in sequential.comparisons)
    shown = [(item, looks) for item, looks in with_interval if looks]
    if not shown:
        return None
    figure = figures.plain_figure(axis, "Seeds", height=360)
    limit = 2 * sequential.difference
    for item, looks in shown:
        style, seeds = styles[item.label], [look.seeds for look in looks]
        low, high, mean = ([getattr(look, name) or 0.0 for look in looks] for name in ("low", "high", "mean"))
        # The first intervals are many times as wide as those that decide, and may leave the figure.
        limit = max(limit, abs(low[-1]), abs(high[-1]), *map(abs, mean))
        figures.band(figure, seeds, low, high, style.colour, item.label)
        figure.add_scatter(
            x=seeds,
            y=mean,
            customdata=[
                [signed(one), signed(other), look.n] for one, other, look in zip(low, high, looks, strict=True)
            ],
            name=figures.label_text(f"{item.label}: {'better elsewhere' if item.outrun else item.verdict}"),
            legendgroup=item.label,
            mode="lines+markers",
            marker={"size": 7, "symbol": style.symbol},
            line={"color": style.colour, "width": 2.5, "dash": style.dash},
            hovertemplate="%{y:+.4g} [%{customdata[0]}, %{customdata[1]}]"
            f"{figures.unit_text(unit)}, n = %{{customdata[2]}}",
        )
    for level in (-sequential.difference, 0.0, sequential.difference):
        figure.add_hline(y=level, line={"color": theme.GREY, "width": 1.5, "dash": "dash" if level else "dot"})
    figure.update_yaxes(range=[-1.15 * limit, 1.15 * limit])
    figure.update_xaxes(range=[sequential.first - 0.5, sequential.most + 0.5])
    return figure
