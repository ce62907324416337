"""Figures as Plotly's JSON: Plotly's script draws them in a report, and its Python package in a notebook."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from core.protocol.comparisons import Comparison
from core.protocol.metrics import MetricsReply

# Okabe and Ito's palette, distinguishable with every kind of colour vision.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#B8A900")
_HEIGHT = 420

Figure = dict[str, Any]


@dataclass(frozen=True)
class DrawnRun:
    """A run whose curves are drawn.

    Attributes:
        label: Label of its method.
        seed: Its seed.
        metrics: Its metrics.
    """

    label: str
    seed: int
    metrics: MetricsReply


def color_of(index: int) -> str:
    """Return the colour of a method by its position in the spec."""
    return _COLORS[index % len(_COLORS)]


def curves(runs: Sequence[DrawnRun], name: str, title: str) -> Figure | None:
    """Return the curves of a metric: a line per method through the mean over its seeds, and a thin line per run.

    Args:
        runs: The runs.
        name: The metric.
        title: Title of the vertical axis.

    Returns:
        None if no run has the metric.
    """
    traces: list[dict[str, Any]] = []
    for index, label in enumerate(dict.fromkeys(run.label for run in runs)):
        color = color_of(index)
        values: dict[float, list[float]] = {}
        same = [run for run in runs if run.label == label]
        for run in same:
            series = next((item for item in run.metrics.series if item.name == name), None)
            if series is None:
                continue
            for epoch, value in zip(series.epoch, series.value, strict=True):
                values.setdefault(epoch, []).append(value)
            line = _line(series.epoch, series.value, color, f"{label} seed {run.seed}")
            traces.append(line | {"opacity": 0.3, "legendgroup": label, "showlegend": False})
        # A mean over fewer runs than the others would jump.
        shared = sorted(epoch for epoch, items in values.items() if len(items) == len(same))
        means = [math.fsum(values[epoch]) / len(values[epoch]) for epoch in shared]
        if shared:
            mean = _line(shared, means, color, label)
            traces.append(mean | {"legendgroup": label, "line": {"color": color, "width": 2.5}})
    return _figure(traces, "epoch", title) if traces else None


def values(comparison: Comparison, title: str) -> Figure:
    """Return the value of every run by method; a line joins the runs of a seed."""
    by_seed: dict[tuple[int | None, int], list[tuple[str, float]]] = {}
    for group in comparison.groups:
        for run in group.runs:
            if run.value is not None:
                by_seed.setdefault((run.teacher_seed, run.seed), []).append((group.label, run.value))
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "x": [label for label, _ in points],
            "y": _numbers([value for _, value in points]),
            "name": f"seed {seed}",
            "line": {"color": "#9AA0A6", "width": 1},
            "marker": {"size": 8},
        }
        for (_, seed), points in by_seed.items()
    ]
    return _figure(traces, "method", title)


def differences(comparison: Comparison, title: str) -> Figure | None:
    """Return the paired differences with their intervals; None if there are none."""
    pairs = [pair for pair in comparison.paired if pair.mean_difference is not None]
    if not pairs:
        return None
    means = [pair.mean_difference or 0.0 for pair in pairs]
    highs = [pair.interval.high if pair.interval else mean for pair, mean in zip(pairs, means, strict=True)]
    lows = [pair.interval.low if pair.interval else mean for pair, mean in zip(pairs, means, strict=True)]
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": _numbers(means),
        "y": [pair.label for pair in pairs],
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [high - mean for high, mean in zip(highs, means, strict=True)],
            "arrayminus": [mean - low for low, mean in zip(lows, means, strict=True)],
        },
        "marker": {"size": 10, "color": "#0072B2"},
        "showlegend": False,
    }
    figure = _figure([trace], title, "")
    zero = {
        "type": "line",
        "x0": 0,
        "x1": 0,
        "y0": 0,
        "y1": 1,
        "yref": "paper",
        "line": {"color": "#5F6368", "dash": "dot"},
    }
    figure["layout"] |= {"shapes": [zero], "height": 160 + 40 * len(pairs)}
    figure["layout"]["yaxis"] |= {"autorange": "reversed", "automargin": True}
    return figure


def _line(x: Sequence[float], y: Sequence[float], color: str, name: str) -> dict[str, Any]:
    line = {"color": color, "width": 1}
    return {"type": "scatter", "mode": "lines", "x": [*x], "y": _numbers(y), "name": name, "line": line}


def _numbers(numbers: Sequence[float]) -> list[float | None]:
    """Return numbers for JSON, in which NaN and infinities are gaps of a line."""
    return [number if math.isfinite(number) else None for number in numbers]


def _figure(traces: list[dict[str, Any]], x: str, y: str) -> Figure:
    layout = {
        "height": _HEIGHT,
        "margin": {"l": 70, "r": 20, "t": 20, "b": 50},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "hovermode": "closest",
        "xaxis": {"title": {"text": x}, "gridcolor": "#E8EAED", "zeroline": False},
        "yaxis": {"title": {"text": y}, "gridcolor": "#E8EAED", "zeroline": False},
    }
    return {"data": traces, "layout": layout, "config": {"responsive": True, "displaylogo": False}}
