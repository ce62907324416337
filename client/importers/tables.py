"""Runs of other programs as the tables of an export, so that one query reads them beside the lab's own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from client.exporters.parquet import Tables
from client.importers.foreign import ForeignRun, MetricName, renamed


def write(runs: Iterable[ForeignRun], folder: Path, names: Sequence[MetricName] = ()) -> dict[str, int]:
    """Write runs with their points into a folder, as ``client.exporters.parquet`` writes the lab's own.

    Their ids begin with the name of their program, and the column ``source`` names it, so they are never mistaken for
    runs of the lab. Each group of the other program (a project, a folder) is an experiment.

    Args:
        runs: The runs.
        folder: The folder.
        names: New names of metrics.

    Returns:
        The number of rows of each table.

    Raises:
        ImportSourceError: The runs cannot be read.
        MissingPackageError: A package is not installed.
        OSError: The folder cannot be written.
    """
    groups: set[str] = set()
    with Tables(folder) as tables:
        for run in runs:
            run_id, group = f"{run.source}:{run.id}", f"{run.source}:{run.group}"
            if group not in groups:
                groups.add(group)
                tables.add("experiments", [{"experiment_id": group, "name": run.group or run.source}])
            tables.add("experiment_runs", [{"experiment_id": group, "run_id": run_id, "label": run.label}])
            tables.add("runs", [_run_row(run, run_id)])
            rows = [
                {
                    "run_id": run_id,
                    "name": point.name,
                    "step": point.step,
                    "epoch": point.epoch,
                    "time": None if point.time is None else round(point.time * 1e6),
                    "value": point.value,
                }
                for point in renamed(run.points, names)
            ]
            tables.add("metrics", rows)
    return tables.counts


def _run_row(run: ForeignRun, run_id: str) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "source": run.source,
        "label": run.label,
        "role": "student",
        "seed": run.seed,
        "state": run.state,
        "started_at": run.started_at,
        "ended_at": run.ended_at,
        "spec": json.dumps(dict(run.config), default=str),
    }
