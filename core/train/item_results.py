"""Writes the per-item results of a run beside its weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from common.atomic_write import atomic_write
from core.catalog.datasets import task_of
from core.items.correlations import CORRELATIONS_NAME, Correlations
from core.items.detection_table import DETECTIONS_NAME
from core.items.features import FEATURES_NAME, NetworkFeatures, RunFeatures
from core.items.picture_choice import MOST_PICTURE_BYTES, PICTURES_NAME
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
    columns = task.per_item(network)

    def encoded() -> bytes:
        # Imported here, because pyarrow takes half a second, and a training without it still gives weights.
        from core.items.file import encode_items

        name, classes = task_of(job.spec.dataset.name).name, task.metadata().classes
        return encode_items(Items(columns, name, images, job.spec.fingerprint(), classes))

    return _written(job, ITEMS_NAME, "per-item results", encoded if columns else None)


def save_detections(job: Job, task: Task, network: nn.Module, images: str) -> str | None:
    """Write what the network and the teacher found in each test image, where the task has detections.

    Arguments, result and warnings are those of ``save_items``.
    """
    table = task.detections(network)

    def encoded() -> bytes:
        from core.items.detection_file import encode_detections

        assert table is not None
        name = task_of(job.spec.dataset.name).name
        return encode_detections(replace(table, task=name, data=images, fingerprint=job.spec.fingerprint()))

    return _written(job, DETECTIONS_NAME, "detections of the test images", encoded if table is not None else None)


def save_correlations(job: Job, task: Task, network: nn.Module, images: str) -> str | None:
    """Write how the logits of each two classes correlate over the test images, where the task has that.

    Arguments, result and warnings are those of ``save_items``.
    """
    found = task.logit_correlations(network)

    def encoded() -> bytes:
        from core.items.correlation_file import encode_correlations

        return encode_correlations(Correlations(found, images, job.spec.fingerprint(), task.metadata().classes))

    return _written(job, CORRELATIONS_NAME, "correlations of the logits", encoded if found else None)


def save_features(job: Job, task: Task, found: NetworkFeatures | None, images: str) -> str | None:
    """Write the penultimate features that the run has kept, and those of its teacher.

    Result and warnings are those of ``save_items``.
    """
    networks = {"student": found, "teacher": task.teacher_features()}
    kept = {name: network for name, network in networks.items() if network}

    def encoded() -> bytes:
        from core.items.feature_file import encode_features

        return encode_features(RunFeatures(kept, images, job.spec.fingerprint(), task.metadata().classes))

    return _written(job, FEATURES_NAME, "features of test images", encoded if found else None)


def save_pictures(job: Job, task: Task, network: nn.Module) -> str | None:
    """Write small pictures of some test images, where the task has them. Result and warnings are as above."""
    pictures = task.pictures(network)

    def encoded() -> bytes:
        from core.items.pictures import encode_pictures

        return encode_pictures(pictures, MOST_PICTURE_BYTES)

    return _written(job, PICTURES_NAME, "pictures of test images", encoded if pictures else None)


def _written(job: Job, name: str, what: str, encoded: Callable[[], bytes] | None) -> str | None:
    """Write a file into the run's folder, and return its name; without content, or if it cannot be written, None."""
    path = job.journal.path.parent / name
    try:
        path.unlink(missing_ok=True)  # of an earlier run in this folder
        if not encoded:
            return None
        atomic_write(path, encoded(), temporary=path.with_suffix(".partial"), sync=True)
    except (ImportError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        job.warn(f"the {what} could not be written: {reason}; the run is complete without them")
        return None
    return name
