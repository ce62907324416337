"""What a board offers and begins with, and changes of its figures, as pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from core.protocol.layouts import MAX_FIGURES, BoardFigure
from dashboard.charts import panels

_FIRST = 6
"""Number of figures with which a board begins."""
_WHOLE_GROUP = range(2, 13)
"""Numbers of metrics of a group that can be pinned at once."""

Choice = tuple[str, ...]
"""Names of metrics that are pinned at once."""
Figures = tuple[BoardFigure, ...]


def first_figures(
    metrics: Sequence[panels.Described], measured: Sequence[str], headline: str, loss: str = "train/loss"
) -> Figures:
    """Return the figures with which a board begins: result and loss, and the first metric of each of the next groups.

    Args:
        metrics: Descriptions of all metrics.
        measured: Names of the metrics that were measured.
        headline: Metric by which results are judged.
        loss: The loss.
    """
    groups = _groups(metrics, measured)
    heads = [members[0]["name"] for members in groups.values()]
    titles = {panels.group_title(metric) for metric in metrics if metric["name"] in (headline, loss)}
    others = [name for (title, _), name in zip(groups.items(), heads, strict=True) if title not in titles]
    chosen = dict.fromkeys([*(name for name in (headline, loss) if name in measured), *others])
    return tuple(BoardFigure(metric=name) for name in [*chosen][:_FIRST])


def offered(
    metrics: Sequence[panels.Described], measured: Sequence[str], pinned: Sequence[BoardFigure]
) -> dict[Choice, str]:
    """Return what can be pinned, with its title: metrics after their group, and whole groups.

    Args:
        metrics: Descriptions of all metrics.
        measured: Names of the metrics that were measured; no others are offered.
        pinned: The present figures.
    """
    taken = {figure.metric for figure in pinned}
    choices: dict[Choice, str] = {}
    for title, members in _groups(metrics, measured).items():
        free = [metric for metric in members if metric["name"] not in taken]
        if len(free) in _WHOLE_GROUP and len(free) + len(pinned) <= MAX_FIGURES:
            choices[tuple(metric["name"] for metric in free)] = f"{title} · all {len(free)}"
        choices |= {(metric["name"],): f"{title} · {metric['label']}" for metric in free}
    return choices


def _groups(metrics: Sequence[panels.Described], measured: Sequence[str]) -> Mapping[str, list[panels.Described]]:
    found = set(measured)
    groups: dict[str, list[panels.Described]] = {}
    for metric in metrics:
        if metric["name"] in found:
            groups.setdefault(panels.group_title(metric), []).append(metric)
    return groups


def added(figures: Figures, names: Choice) -> Figures:
    """Return the figures with further ones at the end, up to the most that a board has."""
    taken = {figure.metric for figure in figures}
    more = tuple(BoardFigure(metric=name) for name in names if name not in taken)
    return (*figures, *more)[:MAX_FIGURES]


def removed(figures: Figures, metric: str) -> Figures:
    """Return the figures without that of a metric."""
    return tuple(figure for figure in figures if figure.metric != metric)


def moved(figures: Figures, metric: str, by: int) -> Figures:
    """Return the figures with that of a metric moved by a number of places, at most to an end."""
    names = [figure.metric for figure in figures]
    if metric not in names:
        return figures
    start = names.index(metric)
    rest = removed(figures, metric)
    place = min(max(start + by, 0), len(rest))
    return (*rest[:place], figures[start], *rest[place:])


def changed(figures: Figures, metric: str, **changes: object) -> Figures:
    """Return the figures with other settings of that of a metric."""
    return tuple(
        BoardFigure.model_validate(figure.model_dump() | changes) if figure.metric == metric else figure
        for figure in figures
    )


def metrics_of(figures: Figures) -> tuple[str, ...]:
    """Return the names of all metrics of the figures, in an order that does not depend on theirs."""
    return tuple(sorted({name for figure in figures for name in (figure.metric, figure.right) if name}))
