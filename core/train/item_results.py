"""Writes the per-item results of a run beside its weights."""

from __future__ import annotations

from torch import nn

from common.atomic_write import atomic_write
from core.catalog.datasets import task_of
from core.items.table import ITEMS_NAME, Items
from core.tasks.task import Task
from core.train.job import Job


def save_items(job: Job, task: Task, network: nn.Module, images: str) -> str | None:
    """Write what each test sample got from the network and from the teacher.

    A run is complete without this file, so a disk that refuses it and a missing pyarrow are only warnings.

    Args:
        job: The training.
        task: Its data. The last epoch report is of ``network``.
        network: The network whose weights were written.
        images: What identifies the data, see ``core.events.IMAGES_KEY``.

    Returns:
        The name of the file in the run's folder; None if there is none.
    """
    path = job.journal.path.parent / ITEMS_NAME
    columns = task.per_item(network)
    try:
        path.unlink(missing_ok=True)  # of an earlier run in this folder
        if not columns:
            return None
        # Imported here, because pyarrow takes half a second, and a training without it still gives weights.
        from core.items.file import encode_items

        name, classes = task_of(job.spec.dataset.name).name, task.metadata().classes
        items = Items(columns, name, images, job.spec.fingerprint(), classes)
        atomic_write(path, encode_items(items), temporary=path.with_suffix(".partial"), sync=True)
    except (ImportError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        job.warn(f"the per-item results could not be written: {reason}; the run is complete without them")
        return None
    return ITEMS_NAME
