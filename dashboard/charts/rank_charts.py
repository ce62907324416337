"""Figures of the Leaderboard page: mean ranks with intervals, and critical differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from core.protocol.leaderboards import Leaderboard, LeaderboardMethod
from dashboard import theme
from dashboard.charts import figures

if TYPE_CHECKING:
    import plotly.graph_objects as go

_LABEL_CHARACTERS = 28
_TITLE = "Mean rank (1 is best)"


def mean_rank_figure(methods: Sequence[LeaderboardMethod]) -> go.Figure | None:
    """Draw the mean rank of each method with its interval, the best at the top; None below two methods with ranks."""
    ranked = [method for method in methods if method.mean_rank is not None]
    if len(ranked) < 2:
        return None
    figure = figures.plain_figure("", _TITLE, height=110 + 28 * len(ranked))
    for method in reversed(ranked):
        mean, interval = method.mean_rank or 0.0, method.interval
        figure.add_scatter(
            x=[mean],
            y=[figures.label_text(method.label)],
            mode="markers",
            marker={"size": 11, "color": theme.BLUE},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [interval.high - mean if interval else 0],
                "arrayminus": [mean - interval.low if interval else 0],
                "thickness": 2.5,
                "width": 7,
                "color": theme.BLUE,
            },
            name=figures.label_text(method.label),
            hovertemplate=f"{figures.label_text(method.rank_text)}<extra></extra>",
        )
    figure.update_layout(showlegend=False, hovermode="closest")
    figure.update_xaxes(range=[0.8, len(ranked) + 0.2], dtick=_tick(len(ranked)))
    figure.update_yaxes(type="category", range=[-0.6, len(ranked) - 0.4])
    return figure


def critical_difference_figure(board: Leaderboard) -> go.Figure | None:
    """Draw the critical-difference figure of Demšar (2006); None if no pairs were tested.

    Methods stand on an axis of mean ranks. Bars join neighbours of which no pair differs. Nemenyi's critical difference
    is drawn above for comparison.
    """
    ranks = {method.label: method.mean_rank for method in board.methods if method.mean_rank is not None}
    ranking = board.ranking
    if ranking is None or not ranking.pairs or len(ranks) < 2:
        return None
    count, half = len(ranks), math.ceil(len(ranks) / 2)
    first = 0.9 + 0.35 * len(ranking.cliques)
    depth = first + half
    figure = figures.plain_figure("", _TITLE, height=int(150 + 24 * depth))
    for index, (label, rank) in enumerate(ranks.items()):
        on_left = index < half
        level = -(first + (index if on_left else count - 1 - index))
        shown = label if len(label) <= _LABEL_CHARACTERS else f"{label[: _LABEL_CHARACTERS - 1]}…"
        figure.add_scatter(
            x=[rank, rank],
            y=[0, level],
            mode="lines+markers+text",
            line={"color": theme.GREY, "width": 1},
            marker={"size": [7, 1], "color": theme.BLUE},
            text=["", figures.label_text(f"{shown} " if on_left else f" {shown}")],
            textposition="middle left" if on_left else "middle right",
            name=figures.label_text(label),
            hovertemplate=f"{rank:.2f}",
        )
    for number, group in enumerate(ranking.cliques):
        level = -(0.4 + 0.35 * number)
        figure.add_scatter(
            x=[ranks[group[0]] - 0.03, ranks[group[-1]] + 0.03],
            y=[level, level],
            mode="lines",
            line={"color": theme.BLUE, "width": 5},
            name=figures.label_text(f"not shown to differ: {', '.join(group)}"),
            hovertemplate="%{x:.2f}",
        )
    if ranking.critical_difference is not None:
        end = min(1 + ranking.critical_difference, count)
        figure.add_scatter(
            x=[1, end],
            y=[0.8, 0.8],
            mode="lines+markers+text",
            line={"color": theme.GREY, "width": 2},
            marker={"symbol": "line-ns-open", "size": 9, "color": theme.GREY},
            text=["", f" Nemenyi CD {ranking.critical_difference:.2f}"],
            textposition="middle right",
            name="Nemenyi's critical difference",
            hoverinfo="skip",
        )
    beside = 0.45 * (count - 1)  # room for the labels
    figure.update_layout(showlegend=False, hovermode="closest")
    ticks = list(range(1, count + 1, _tick(count)))
    figure.update_xaxes(range=[1 - beside, count + beside], tickvals=ticks, side="top", showgrid=False, zeroline=False)
    figure.update_yaxes(range=[-depth, 1.3], visible=False, fixedrange=True)
    figure.add_hline(y=0, line={"color": theme.GREY, "width": 1.5})
    return figure


def _tick(count: int) -> int:
    return max(1, math.ceil(count / 12))
