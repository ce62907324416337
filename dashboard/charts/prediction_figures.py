"""Figures of what classifiers predict: accuracy by class, confusion, reliability, and correlations of logits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from common.formatting import difference_text
from core.protocol.predictions import ConfidenceBin, ConfusionMatrix, CorrelationDifference, SeedsSummary, Side
from dashboard import theme
from dashboard.charts import figures
from dashboard.charts.bars import MOST_COLUMNS, Source, Values, grouped_bars

if TYPE_CHECKING:
    import plotly.graph_objects as go

COLOURS: Mapping[Side, str] = {"reference": theme.GREY, "run": theme.BLUE}
"""Colours of a reference and of a run, in the order of their bars."""
MOST_CLASSES = 100
"""Largest number of classes of a confusion matrix that is drawn."""
_HEIGHT = 340
COLOUR_SCALE = ((0.0, theme.translucent(theme.BLUE, 0)), (0.25, theme.translucent(theme.BLUE, 0.45)), (1.0, theme.BLUE))
"""Colours from zero, which has none, to the greatest value."""
_SIGNED = (
    (0.0, theme.VERMILLION),
    (0.35, theme.translucent(theme.VERMILLION, 0.45)),
    (0.5, theme.translucent(theme.GREY, 0)),
    (0.65, theme.translucent(theme.BLUE, 0.45)),
    (1.0, theme.BLUE),
)


def accuracy_figure(
    values: Mapping[Side, Values], names: Mapping[Side, str], classes: Sequence[str], totals: Mapping[str, str]
) -> go.Figure:
    """Draw the accuracy on each class of a run beside its reference, as bars.

    Args:
        values: Accuracy in % of ``run`` and ``reference``, by class.
        names: Names of the networks in the legend.
        classes: The classes in their order.
        totals: Of how many images the accuracy on each class is, such as "90 images".
    """
    texts = {name: f" % of {total}" for name, total in totals.items()}
    in_rows = len(classes) > MOST_COLUMNS
    return grouped_bars(values, names, COLOURS, classes, "Accuracy (%)", in_rows=in_rows, texts=texts)


def reliability_figure(
    bins: Mapping[Source, Sequence[ConfidenceBin]],
    names: Mapping[Source, str],
    styles: Mapping[Source, theme.Style],
    item: str,
) -> go.Figure:
    """Draw the share of right images over the mean confidence, and below it how many images each range has.

    Args:
        bins: Ranges of the confidence of each network.
        names: Names of the networks in the legend.
        styles: Their styles.
        item: What an item of the data is called, such as an image.
    """
    figure = figures.plain_figure("Accuracy (%)", "Confidence (largest probability)", height=400)
    figure.add_scatter(
        x=[0, 1],
        y=[0, 100],
        mode="lines",
        line={"color": theme.translucent(theme.GREY, 0.6), "dash": "dash", "width": 1},
        showlegend=False,
        hoverinfo="skip",
    )
    items = figures.label_text(f"{item}s")
    for key, found in bins.items():
        style = styles[key]
        figure.add_scatter(
            x=[one.confidence for one in found],
            y=[100 * one.right for one in found],
            customdata=[[one.low, one.high, one.images] for one in found],
            mode="lines+markers",
            name=figures.label_text(names[key]),
            legendgroup=key,
            line={"color": style.colour, "width": 1.5},
            marker={"color": style.colour, "symbol": style.symbol, "size": 7},
            hovertemplate=f"%{{y:.1f}} % of %{{customdata[2]:,}} {items} with a confidence from "
            "%{customdata[0]:.2f} to %{customdata[1]:.2f}",
        )
        figure.add_bar(
            x=[(one.low + one.high) / 2 for one in found],
            y=[one.images for one in found],
            offsetgroup=key,
            name=figures.label_text(names[key]),
            legendgroup=key,
            showlegend=False,
            marker={"color": style.colour},
            yaxis="y2",
            hovertemplate=f"%{{y:,}} {items}",
        )
    figure.update_layout(
        hovermode="closest",
        barmode="group",
        showlegend=len(bins) > 1,
        yaxis={"domain": [0.34, 1], "range": [0, 104]},
        yaxis2={
            "domain": [0, 0.24],
            "anchor": "x",
            "title": {"text": items[:1].upper() + items[1:]},
            "automargin": True,
            "nticks": 4,
        },
    )
    figure.update_xaxes(range=[0, 1.02], anchor="y2")  # below the numbers of images
    return figure


def confusion_figure(matrix: ConfusionMatrix, shown: str, item: str, *, diagonal: bool) -> go.Figure:
    """Draw how often each class is predicted for the images of each class, in % of the images of that class.

    Args:
        matrix: The counts.
        shown: ``run``, ``reference`` or ``difference`` (run minus reference).
        item: What an item of the data is called, such as an image.
        diagonal: Whether the right predictions are drawn too.
    """
    size = len(matrix.classes)
    counts = _dense(matrix, matrix.run, size)
    theirs = _dense(matrix, matrix.of_reference or [], size) if matrix.of_reference is not None else counts
    totals = [sum(row) for row in counts]
    shares: list[list[float | None]] = []
    texts: list[list[str]] = []
    for row in range(size):
        share_row: list[float | None] = []
        text_row: list[str] = []
        for column in range(size):
            own, other = counts[row][column], theirs[row][column]
            value = {"run": own, "reference": other, "difference": own - other}[shown]
            hidden = not totals[row] or (row == column and not diagonal)
            share_row.append(None if hidden else 100 * value / totals[row])
            text_row.append(f"{value:+,}".replace("-", "−") if shown == "difference" else f"{value:,}")
        shares.append(share_row)
        texts.append(text_row)
    greatest = max((abs(value) for share_row in shares for value in share_row if value is not None), default=0) or 1
    signed = shown == "difference"
    unit = "percentage points" if signed else "% of the class"
    figure = class_map(
        shares,
        matrix.classes,
        ("Predicted class", f"Class of the {figures.label_text(item)}s"),
        limits=(-greatest if signed else 0, greatest),
        bar="Points" if signed else "%",
    )
    figure.data[0].update(
        customdata=texts,
        colorscale=_SIGNED if signed else COLOUR_SCALE,
        hovertemplate=f"%{{y}} predicted as %{{x}}: %{{z:.1f}} {unit} (%{{customdata}} {figures.label_text(item)}s)"
        "<extra></extra>",
    )
    return figure


def correlation_figure(found: CorrelationDifference, highest: float | None = None) -> go.Figure:
    """Draw |correlation of the run's logits − the reference's| of each two classes.

    Args:
        found: The differences.
        highest: Upper end of the colours, so that maps can be compared; None for the greatest value.
    """
    greatest = highest or greatest_difference(found) or 1
    axis = "Class" if found.classes_per_cell == 1 else f"Classes, {found.classes_per_cell} in a row"
    figure = class_map(found.difference, found.classes, (axis, axis), limits=(0, greatest), bar="|Δ|")
    figure.data[0].update(colorscale=COLOUR_SCALE, hovertemplate="%{y}, %{x}: %{z:.3f}<extra></extra>")
    return figure


def greatest_difference(found: CorrelationDifference) -> float:
    """Return the greatest value of a map; 0 without any."""
    return max((value for row in found.difference for value in row if value is not None), default=0.0)


def class_differences_figure(
    differences: Mapping[str, SeedsSummary], axis: str, style: theme.Style, labels: Mapping[str, str]
) -> go.Figure:
    """Draw the mean difference on each class with its interval, from top to bottom.

    Args:
        differences: Differences in percentage points by class, in the order of the rows.
        axis: Title of the x axis.
        style: Style of the method.
        labels: Text of each row.
    """
    figure = figures.plain_figure("", axis, height=110 + 24 * len(differences))
    rows = [figures.label_text(labels[name]) for name in differences]
    found = list(differences.values())
    bounds = [(item.interval.low, item.interval.high) if item.interval else (item.mean, item.mean) for item in found]
    figure.add_scatter(
        x=[item.mean for item in found],
        y=rows,
        mode="markers",
        marker={"size": 8, "color": style.colour, "symbol": style.symbol},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [(high or 0) - (item.mean or 0) for item, (_, high) in zip(found, bounds, strict=True)],
            "arrayminus": [(item.mean or 0) - (low or 0) for item, (low, _) in zip(found, bounds, strict=True)],
            "thickness": 2,
            "width": 4,
            "color": style.colour,
        },
        customdata=[
            difference_text(item.mean or 0.0, item.interval) + ("" if item.interval else ", no interval")
            for item in found
        ],
        hovertemplate="%{y}: %{customdata}<extra></extra>",
    )
    figure.add_vline(x=0, line={"color": theme.GREY, "width": 1.5, "dash": "dash"})
    figure.update_layout(showlegend=False, hovermode="closest")
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=rows[::-1])
    return figure


def _dense(matrix: ConfusionMatrix, counts: Sequence[int], size: int) -> list[list[int]]:
    dense = [[0] * size for _ in range(size)]
    for target, predicted, count in zip(matrix.target, matrix.predicted, counts, strict=True):
        dense[target][predicted] = count
    return dense


def class_map(
    values: Sequence[Sequence[float | None]],
    names: Sequence[str],
    titles: tuple[str, str],
    *,
    limits: tuple[float, float],
    bar: str,
) -> go.Figure:
    """Return a map of values by class, with the first class at the top.

    Args:
        values: By row and column.
        names: Names of the classes.
        titles: Titles of the x and the y axis.
        limits: Values at the ends of the colours.
        bar: Title of the colour bar.
    """
    figure = figures.plain_figure(titles[1], titles[0], height=_height(len(names)))
    labels = [figures.label_text(name) for name in names]
    figure.add_heatmap(
        z=[[None if value is None or not math.isfinite(value) else value for value in row] for row in values],
        x=labels,
        y=labels,
        zmin=limits[0],
        zmax=limits[1],
        xgap=1 if len(names) <= 40 else 0,
        ygap=1 if len(names) <= 40 else 0,
        colorbar={"thickness": 12, "title": {"text": bar, "side": "top"}, "outlinewidth": 0},
    )
    figure.update_layout(hovermode="closest", showlegend=False)
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=labels, showgrid=False)
    figure.update_yaxes(
        type="category", categoryorder="array", categoryarray=labels, showgrid=False, autorange="reversed"
    )
    return figure


def _height(classes: int) -> int:
    return min(760, max(_HEIGHT, 150 + 16 * classes))
