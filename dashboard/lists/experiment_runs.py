"""The table of an experiment's runs with chosen columns and sparklines, as pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from common.durations import duration_text
from common.formatting import MAX_DECIMALS, decimals_for
from core.protocol.public import RunSummary
from dashboard.curves.curve import Curve, RunCurves
from dashboard.lists import row_text
from dashboard.theme import state_text

_POINTS = 60
"""Greatest number of points of a sparkline; a cell is narrower than this in pixels."""

_COLUMNS: Mapping[str, Callable[[RunSummary, datetime], Any]] = {
    "State": lambda run, now: state_text(run.state),
    "Method": lambda run, now: run.label,
    "Seed": lambda run, now: run.seed,
    "Progress": lambda run, now: round(row_text.progress(run) * 100),
    "Epoch": lambda run, now: run.epoch,
    "Duration": lambda run, now: duration_text(row_text.elapsed_seconds(run, now)),
    "Started": lambda run, now: run.started_at,
    "Ended": lambda run, now: run.ended_at,
    "Worker": lambda run, now: run.worker,
    "Attempts": lambda run, now: run.attempt,
    "Priority": lambda run, now: run.priority,
    "Model": lambda run, now: run.model,
    "Reason": lambda run, now: run.reason,
}
COLUMNS = tuple(_COLUMNS)
"""Columns that can be chosen, besides metrics."""
DEFAULT_COLUMNS = ("State", "Method", "Seed", "Progress", "Duration")


def rows(
    runs: Sequence[RunSummary],
    curves: Mapping[str, RunCurves],
    columns: Sequence[str],
    metrics: Mapping[str, str],
    now: datetime,
    *,
    sparklines: bool,
) -> list[dict[str, Any]]:
    """Return one row per run, in the order of the plan.

    Args:
        runs: The runs.
        curves: Their curves, by run id.
        columns: Chosen columns, of ``COLUMNS``.
        metrics: Title of each chosen metric, by name.
        now: The time.
        sparklines: Whether each metric has a column with its curve.
    """
    return [
        {
            "Run": f"run?id={run.id}",
            **{name: _COLUMNS[name](run, now) for name in columns},
            **_metric_cells(curves.get(run.id), metrics, sparklines=sparklines),
        }
        for run in runs
    ]


def number_format(unit: str, values: Sequence[float]) -> str:
    """Return the format of a metric's column, with which all its values have the same number of decimals.

    Args:
        unit: The metric's unit.
        values: The values of the column.
    """
    sizes = [abs(value) for value in values if value]
    decimals = 2 if unit == "%" else decimals_for(max(sizes, default=0.0) / 100)
    # Values of very different sizes, such as learning rates, would be shown as zero.
    return f"%.{decimals}f" if min(sizes, default=1.0) >= 10**-decimals and decimals <= MAX_DECIMALS else "%.4g"


def sparkline_title(title: str) -> str:
    """Return the title of the column with the curve of a metric."""
    return f"{title} over epochs"


def _metric_cells(stored: RunCurves | None, metrics: Mapping[str, str], *, sparklines: bool) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for name, title in metrics.items():
        values = _finite(stored.curves[name]) if stored and name in stored.curves else []
        cells[title] = values[-1] if values else None
        if sparklines:
            cells[sparkline_title(title)] = thinned(values) or None
    return cells


def _finite(curve: Curve) -> list[float]:
    return [value for value in curve.value if math.isfinite(value)]


def thinned(values: Sequence[float]) -> list[float]:
    """Return at most ``_POINTS`` of the values at equal distances, with the first and the last."""
    if len(values) <= _POINTS:
        return list(values)
    step = (len(values) - 1) / (_POINTS - 1)
    return [values[round(index * step)] for index in range(_POINTS)]
