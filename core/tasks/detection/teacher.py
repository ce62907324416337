"""A student's teacher: its detector with its weights."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from core.errors import TrainingError
from core.tasks.detection.data import DetectionData
from core.tasks.detection.data.fingerprint import describe_training_images
from core.tasks.detection.models.detector import Detector
from core.tasks.detection.networks import build_detector
from core.tasks.task import RunContext, TeacherSource
from core.weights.data_comparison import compare_teacher
from core.weights.errors import WeightsError
from core.weights.metadata import read_metadata
from core.weights.network_weights import load_weights


def load_teacher(context: RunContext, source: TeacherSource, data: DetectionData) -> tuple[Detector, dict[str, Any]]:
    """Build the teacher's detector and load its weights. Warnings about them go to the run's log.

    Args:
        context: The run of the student.
        source: Where the teacher comes from.
        data: The student's data.

    Returns:
        The detector; and what identifies its outputs, together with the boxes that it is asked about.

    Raises:
        TrainingError: The weights cannot be read, or belong to another network or to other classes.
    """
    try:
        metadata = read_metadata(source.weights)
    except WeightsError as error:
        raise TrainingError("error", f"the teacher's weights: {error}") from error
    trained_here = not source.spec.uses_weights_unchanged
    warnings = [f"the teacher: {note}" for note in metadata.notes]
    warnings += compare_teacher(metadata, data.classes, data.content_hash, trained_here=trained_here)
    for warning in warnings:
        context.warn(warning)
    detector = build_detector(source.spec.model, data.num_classes)
    load_weights(detector, source.weights)
    identity = {"model": source.spec.model.model_dump(mode="json"), "sha256": _sha256(source.weights)}
    dataset = context.spec.dataset.model_dump(mode="json")
    return detector, {"teacher": identity, "dataset": dataset, "views": describe_training_images(data)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
