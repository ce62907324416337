"""A run's teacher: its network, with its weights, behind the images that these weights expect."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from core.errors import TrainingError
from core.specs import RunSpec
from core.tasks.classification.data import Dataset
from core.tasks.classification.data.class_names import class_names
from core.tasks.classification.data.fingerprint import describe_training_images
from core.tasks.classification.networks import build_network
from core.tasks.classification.teacher_input import adapt_input, input_format_of
from core.tasks.task import LoadedTeacher, RunContext, TeacherSource
from core.weights.data_comparison import compare_teacher
from core.weights.errors import WeightsError
from core.weights.metadata import InputFormat, read_metadata
from core.weights.network_weights import load_weights


def load_teacher(context: RunContext, source: TeacherSource, dataset: Dataset) -> LoadedTeacher:
    """Build the teacher's network and load its weights. Warnings about them go to the run's log.

    Args:
        context: The run of the student.
        source: Where the teacher comes from.
        dataset: The student's images.

    Returns:
        The network in eval mode on the data set's device. Its cache key identifies it together with the images.

    Raises:
        TrainingError: The weights cannot be read, or belong to another network or to other classes.
    """
    network, expected = _load_network(context, source, dataset)
    network.to(dataset.device).eval().requires_grad_(False)
    identity = {"model": source.spec.model.model_dump(mode="json"), "sha256": _sha256(source.weights)}
    if expected:
        identity["input"] = asdict(expected)
    return LoadedTeacher(network, cache_identity(identity, context.spec, dataset))


def cache_identity(teacher: Mapping[str, Any], spec: RunSpec, dataset: Dataset) -> dict[str, Any]:
    """Return the values that determine a teacher's outputs besides the arithmetic, the augmentation and the epoch.

    Args:
        teacher: The teacher's architecture with its parameters, and the SHA-256 of its weights.
        spec: The student's run.
        dataset: Its images.
    """
    return {
        "teacher": dict(teacher),
        "dataset": spec.dataset.model_dump(mode="json"),
        "views": describe_training_images(dataset),
    }


def _load_network(context: RunContext, source: TeacherSource, dataset: Dataset) -> tuple[nn.Module, InputFormat | None]:
    """Return the network; and the images that it expects if they are not the student's, else None."""
    try:
        metadata = read_metadata(source.weights)
    except WeightsError as error:
        raise TrainingError("error", f"the teacher's weights: {error}") from error
    trained_here = not source.spec.uses_weights_unchanged
    warnings = [f"the teacher: {note}" for note in metadata.notes]
    classes = class_names(context.spec.dataset, dataset)
    warnings += compare_teacher(metadata, classes, dataset.content_hash, trained_here=trained_here)
    if metadata.input is None and not trained_here:
        warnings.append(
            "the teacher: its run is older than the record of mean and std in weights, so the student's mean and std "
            "are used; run the teacher again to be sure"
        )
    for warning in warnings:
        context.warn(warning)
    student_format = input_format_of(dataset)
    differs = metadata.input is not None and not metadata.input.same_images(student_format)
    teacher_format = metadata.input if differs else None
    network = build_network(source.spec.model, dataset, teacher_format, metadata.head)
    load_weights(network, source.weights)
    if teacher_format is None:
        return network, None
    context.log(
        f"the teacher sees the views with {teacher_format} ({teacher_format.known_from}), "
        f"the student with {student_format}",
        "info",
    )
    return adapt_teacher_input(network, student_format, teacher_format), teacher_format


def adapt_teacher_input(network: nn.Module, shown: InputFormat, expected: InputFormat | None) -> nn.Module:
    """Call ``adapt_input``.

    Raises:
        TrainingError: The two formats have different numbers of channels.
    """
    try:
        return adapt_input(network, shown, expected)
    except ValueError as error:
        raise TrainingError("spec", f"the teacher's weights: {error}") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
