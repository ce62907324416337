"""Writes runs as offline runs of Weights & Biases, which ``wandb sync`` sends to a server."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from client.client import Client
from client.exporters.packages import MissingPackageError
from client.exporters.series import points
from core.protocol.records import ExperimentRecord, RunRecord


def write(client: Client, record: ExperimentRecord, runs: Sequence[RunRecord], folder: Path) -> Iterator[str]:
    """Write runs below ``folder``, and yield the folder of each.

    NaN and ±infinity are left out, because a history of W&B cannot be drawn with them.

    Args:
        client: The client.
        record: The experiment; it becomes a project.
        runs: Its runs.
        folder: The folder.

    Raises:
        MissingPackageError: Wandb is not installed.
        OSError: The folder cannot be written.
    """
    try:
        # The package is imported by name, because it is not in the lock and mypy does not know its types.
        wandb: Any = importlib.import_module("wandb")
    except ImportError:
        raise MissingPackageError("wandb", extra="") from None
    folder.mkdir(parents=True, exist_ok=True)
    for run in runs:
        offline = wandb.init(
            project=_project(record.name),
            id=run.run_id,
            name=f"{run.label} seed {run.spec['seed']}",
            group=run.label,
            job_type=run.spec["role"],
            config={**run.spec, "dkd": _facts(record, run)},
            dir=str(folder),
            mode="offline",
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off", disable_git=True, x_disable_stats=True),
        )
        try:
            for step, values in _by_step(client, run):
                offline.log(values, step=step)
            for name, value in run.metrics.items():
                if math.isfinite(value):
                    offline.summary[name] = value
            yield str(Path(offline.dir).parent)
        finally:
            offline.finish(exit_code=0 if run.state == "succeeded" else 1)


def _by_step(client: Client, run: RunRecord) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield the values of each step, in increasing order, which W&B requires."""
    steps: dict[int, dict[str, float]] = {}
    for point in points(client, run):
        if math.isfinite(point.value):
            values = steps.setdefault(point.step, {"epoch": point.epoch, "_timestamp": point.time})
            values[point.name] = point.value
    yield from sorted(steps.items())


def _facts(record: ExperimentRecord, run: RunRecord) -> dict[str, str]:
    return {
        "run_id": run.run_id,
        "experiment": record.name,
        "label": run.label,
        "fingerprint": run.fingerprint,
        "commit": run.commit,
        **run.environment,
    }


def _project(name: str) -> str:
    """Return a name that W&B accepts for a project."""
    return re.sub(r"[/\\#?%:\s]+", "-", name).strip("-")[:128] or "dkd-lab"
