"""Differences to the baseline with two intervals: over the test images, and over the seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.formatting import Bounds, difference_text
from dashboard import families, theme
from dashboard.charts import figures

if TYPE_CHECKING:
    import plotly.graph_objects as go

OVER_IMAGES, OVER_SEEDS = "over images (bootstrap)", "over seeds (t)"
_APART = 0.16
"""Half the distance between the two intervals of a method, as a part of a row."""


@dataclass(frozen=True)
class TwoIntervals:
    """The difference of one method to the baseline.

    Attributes:
        label: Label of the method.
        images: Difference over the test images, and its interval.
        seeds: Mean difference over the seeds, and its interval; None if it is not known.
    """

    label: str
    images: tuple[float, Bounds | None]
    seeds: tuple[float, Bounds | None] | None = None


def two_intervals_figure(
    differences: Sequence[TwoIntervals], axis: str, styles: Mapping[str, theme.Style], unit: str = ""
) -> go.Figure:
    """Draw two intervals for each method, from top to bottom: over images (filled) above that over seeds (open).

    Args:
        differences: The methods.
        axis: Title of the x axis, with the unit of a difference.
        styles: Styles of the labels.
        unit: Unit of a difference, for the tooltips.
    """
    row = 34 if len(differences) > families.MANY else 62  # pixels
    figure = figures.plain_figure("", axis, height=130 + row * len(differences))
    for at, item in enumerate(reversed(differences)):
        style = styles[item.label]
        kinds = ((OVER_IMAGES, item.images, _APART, ""), (OVER_SEEDS, item.seeds, -_APART, "-open"))
        for name, found, shift, suffix in kinds:
            if found is None:
                continue
            mean, bounds = found
            text = figures.label_text(f"{item.label}, {name}: {difference_text(mean, bounds, unit)}")
            figure.add_scatter(
                x=[mean],
                y=[at + shift],
                mode="markers",
                marker={"size": 10, "color": style.colour, "symbol": f"{style.symbol}{suffix}"},
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": [bounds.high - mean if bounds else 0],
                    "arrayminus": [mean - bounds.low if bounds else 0],
                    "thickness": 1.5 if suffix else 3,
                    "width": 6,
                    "color": style.colour,
                },
                showlegend=False,
                hovertemplate=f"{text}{'' if bounds else ', no interval'}<extra></extra>",
            )
    for name, suffix in ((OVER_IMAGES, ""), (OVER_SEEDS, "-open")):
        marker = {"size": 10, "color": theme.GREY, "symbol": f"circle{suffix}"}
        figure.add_scatter(x=[None], y=[None], mode="markers", marker=marker, name=name, hoverinfo="skip")
    figure.add_vline(x=0, line={"color": theme.GREY, "width": 1.5, "dash": "dash"})
    figure.update_layout(showlegend=True, hovermode="closest")
    names = [figures.label_text(item.label) for item in reversed(differences)]
    figure.update_yaxes(
        tickmode="array",
        tickvals=list(range(len(names))),
        ticktext=names,
        range=[-0.6, len(names) - 0.4],
        showgrid=False,
        zeroline=False,
    )
    return figure
