"""Metrics as TensorBoard's event files, a folder a run."""

from __future__ import annotations

import re
from pathlib import Path

from client.client import Client
from client.exporters.series import points
from core.protocol.records import RunRecord


class MissingPackageError(Exception):
    """tensorboardX is not installed."""


def write(client: Client, run: RunRecord, folder: Path) -> Path:
    """Write one run's points and its record below ``folder``; returns the run's folder.

    What is there already of the same run is left, and TensorBoard then shows both: choose a new folder.

    Raises:
        MissingPackageError: tensorboardX, of the extra ``export``, is not installed.
        OSError: the folder cannot be written.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise MissingPackageError(
            "tensorboardX is not installed; pip install 'dkd-lab[export]', or pip install tensorboardX"
        ) from None
    target = folder / folder_name(run)
    target.mkdir(parents=True, exist_ok=True)
    with SummaryWriter(logdir=str(target)) as writer:
        for point in points(client, run):
            writer.add_scalar(point.name, point.value, global_step=point.step, walltime=point.time)
        writer.add_text("record", f"```json\n{run.model_dump_json(indent=2, exclude={'diff', 'packages'})}\n```")
    (target / "record.json").write_text(run.model_dump_json(indent=2), encoding="utf-8")
    return target


def folder_name(run: RunRecord) -> str:
    """As TensorBoard lists it: the method, the seed, and the run's id, since two experiments may have the same two."""
    label = re.sub(r"[^A-Za-z0-9_.-]+", "-", run.label).strip("-.") or "run"
    return f"{label}-seed{run.spec['seed']}-{run.run_id}"
