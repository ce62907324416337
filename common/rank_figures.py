"""Figures of ranks as SVG: mean ranks with intervals, and the critical-difference figure of Demšar (2006)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from common import svg

_WIDTH = 760.0
_MARGIN = 10.0
_LINE = 22.0
_LABEL_WIDTH = 230.0
_COLOUR = "#0072b2"


@dataclass(frozen=True)
class RankedLabel:
    """A method in a figure.

    Attributes:
        label: Its label.
        mean_rank: Its mean rank.
        low: Lower end of the interval of the mean rank; None without one.
        high: Upper end.
    """

    label: str
    mean_rank: float
    low: float | None = None
    high: float | None = None


def _axis(best: int, worst: int, left: float, right: float, y: float, *, up: bool) -> list[str]:
    """Return an axis of ranks with a tick per rank, or fewer if there are many."""
    step = max(1, math.ceil((worst - best) / 12))
    parts = [svg.line(left, y, right, y)]
    ticks = [*range(best, worst, step), worst] if (worst - best) % step else range(best, worst + 1, step)
    for rank in ticks:
        x = left + (rank - best) / max(worst - best, 1) * (right - left)
        parts.append(svg.line(x, y, x, y - 6 if up else y + 6))
        parts.append(svg.label(x, y - 10 if up else y + 20, str(rank), anchor="middle", size=12))
    return parts


def mean_ranks(methods: Sequence[RankedLabel], *, background: str = "") -> str:
    """Return the figure of mean ranks with their intervals, the best method first.

    Args:
        methods: The methods in the order of their mean ranks.
        background: Colour behind the figure; empty for none.
    """
    longest = max((svg.text_width(item.label) for item in methods), default=0.0)
    left = _MARGIN + min(_LABEL_WIDTH, longest) + 12
    right = _WIDTH - 2 * _MARGIN
    count = max(len(methods), 2)

    def at(rank: float) -> float:
        return left + (rank - 1) / (count - 1) * (right - left)

    parts = []
    for index, item in enumerate(methods):
        y = _MARGIN + _LINE * (index + 0.5)
        shown = svg.shortened(item.label, _LABEL_WIDTH)
        name = svg.label(left - 12, y + 4, shown, anchor="end")
        bar = ""
        if item.low is not None and item.high is not None:
            bar = svg.line(at(item.low), y, at(item.high), y, _COLOUR, 2)
        text = f"{item.label}: {item.mean_rank:.2f}" + (
            f" [{item.low:.2f}, {item.high:.2f}]" if item.low is not None and item.high is not None else ""
        )
        guide = svg.line(left, y, right, y, svg.GREY, 0.4, "2 3")
        parts.append(svg.titled(name + guide + bar + svg.circle(at(item.mean_rank), y, 4.5, _COLOUR), text))
    bottom = _MARGIN + _LINE * len(methods) + 4
    parts += _axis(1, count, left, right, bottom, up=False)
    parts.append(svg.label((left + right) / 2, bottom + 38, "mean rank (1 is best)", anchor="middle", size=12))
    return svg.figure(_WIDTH, bottom + 48, parts, "Mean ranks of the methods with intervals", background=background)


def critical_difference(
    methods: Sequence[RankedLabel],
    cliques: Sequence[Sequence[str]],
    difference: float | None,
    *,
    background: str = "",
) -> str:
    """Return the critical-difference figure: methods on an axis of mean ranks, and bars that join those in a clique.

    Args:
        methods: At least two methods in the order of their mean ranks.
        cliques: Labels of methods that do not differ, neighbours in that order.
        difference: Nemenyi's critical difference, drawn above the axis for comparison; None for none.
        background: Colour behind the figure; empty for none.
    """
    count = len(methods)
    number_width = svg.text_width(" 00.00")
    label_width = min(_LABEL_WIDTH, max(svg.text_width(item.label) for item in methods) + number_width) + 8
    left, right = _MARGIN + label_width, _WIDTH - _MARGIN - label_width
    top = 62.0

    def at(rank: float) -> float:
        return left + (rank - 1) / (count - 1) * (right - left)

    parts = _axis(1, count, left, right, top, up=True)
    if difference is not None:
        end = min(at(1 + difference), right)
        parts += [svg.line(left, 20, end, 20), svg.line(left, 16, left, 24), svg.line(end, 16, end, 24)]
        beyond = " (wider than the axis)" if 1 + difference > count else ""
        parts.append(svg.label(end + 8, 24, f"Nemenyi CD = {difference:.2f}{beyond}", size=12))
    position = {item.label: item.mean_rank for item in methods}
    levels = _levels([(position[group[0]], position[group[-1]]) for group in cliques])
    for group, level in zip(cliques, levels, strict=True):
        y = top + 12 + 9 * level
        bar = svg.line(at(position[group[0]]) - 4, y, at(position[group[-1]]) + 4, y, _COLOUR, 4)
        parts.append(svg.titled(bar, f"no pair of these differs: {', '.join(group)}"))
    first = top + 22 + 9 * (max(levels, default=-1) + 1)
    half = math.ceil(count / 2)
    for index, item in enumerate(methods):
        on_left = index < half
        y = first + _LINE * (index if on_left else count - 1 - index)
        x, edge = at(item.mean_rank), left if on_left else right
        lines = svg.line(x, top, x, y, svg.GREY) + svg.line(x, y, edge, y, svg.GREY)
        text = svg.shortened(item.label, label_width - number_width - 8)
        shown = f"{text} {item.mean_rank:.2f}" if on_left else f"{item.mean_rank:.2f} {text}"
        name = svg.label(edge - 6 if on_left else edge + 6, y + 4, shown, anchor="end" if on_left else "start")
        parts.append(svg.titled(lines + name, f"{item.label}: mean rank {item.mean_rank:.2f}"))
    height = first + _LINE * half + 4
    return svg.figure(_WIDTH, height, parts, "Critical differences of the mean ranks", background=background)


def _levels(spans: Sequence[tuple[float, float]]) -> list[int]:
    """Return the level of each bar, so that no two bars of a level touch."""
    ends: list[float] = []
    levels = []
    for low, high in spans:
        level = next((index for index, end in enumerate(ends) if end < low), len(ends))
        if level == len(ends):
            ends.append(high)
        else:
            ends[level] = high
        levels.append(level)
    return levels
