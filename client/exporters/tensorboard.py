"""Writes metrics as TensorBoard event files, one folder per run."""

from __future__ import annotations

import re
from pathlib import Path

from client.client import Client
from client.exporters.packages import MissingPackageError
from client.exporters.series import points
from core.protocol.records import RunRecord


def write(client: Client, run: RunRecord, folder: Path) -> Path:
    """Write one run's points and its record below ``folder`` and return the run's folder.

    Files of an earlier export of the same run are kept, and TensorBoard then shows both: use a new folder.

    Raises:
        MissingPackageError: tensorboardX, of the extra ``export``, is not installed.
        OSError: The folder cannot be written.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise MissingPackageError("tensorboardX") from None
    run_folder = folder / folder_name(run)
    run_folder.mkdir(parents=True, exist_ok=True)
    with SummaryWriter(logdir=str(run_folder)) as writer:
        for point in points(client, run):
            writer.add_scalar(point.name, point.value, global_step=point.step, walltime=point.time)
        writer.add_text("record", f"```json\n{run.model_dump_json(indent=2, exclude={'diff', 'packages'})}\n```")
    (run_folder / "record.json").write_text(run.model_dump_json(indent=2), encoding="utf-8")
    return run_folder


def folder_name(run: RunRecord) -> str:
    """Return a run's name in TensorBoard: label, seed and id, because runs may have equal labels and seeds."""
    label = re.sub(r"[^A-Za-z0-9_.-]+", "-", run.label).strip("-.") or "run"
    return f"{label}-seed{run.spec['seed']}-{run.run_id}"
