"""A run's teacher: its network, with its weights, behind the input that these weights expect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from core.specs import ModelRef, RunSpec
from core.tasks.classification import models
from core.tasks.classification.data import Dataset
from core.train.checkpoint import load_weights
from core.train.errors import TrainingError
from core.train.job import Job, TeacherSource
from core.train.teacher_input import adapt_input, input_format_of
from core.train.weights_metadata import compare_teacher
from core.weights.metadata import InputFormat, read_metadata


@dataclass(frozen=True)
class LoadedTeacher:
    """A teacher that is ready to be used.

    Attributes:
        network: In eval mode, without gradients, on the device of the training.
        cache_key: What identifies the teacher's logits on disk; None if they are not cached.
    """

    network: nn.Module
    cache_key: Mapping[str, Any] | None = None


def uses_weights_unchanged(spec: RunSpec) -> bool:
    """Whether a run trains nothing and hands out supplied weights as they are."""
    return spec.weights is not None and not spec.weights.fine_tune


def load_teacher(job: Job, source: TeacherSource, dataset: Dataset) -> tuple[nn.Module, InputFormat | None]:
    """Build the teacher's network and load its weights. Warnings about them go to the run's log.

    Args:
        job: The training of the student.
        source: Where the teacher comes from.
        dataset: The student's images.

    Returns:
        The network; and the images that it expects if they are not the student's, else None.

    Raises:
        TrainingError: The weights cannot be read, or belong to another network or to other classes.
    """
    try:
        metadata = read_metadata(source.weights)
    except models.WeightsError as error:
        raise TrainingError("error", f"the teacher's weights: {error}") from error
    trained_here = not uses_weights_unchanged(source.spec)
    warnings = [f"the teacher: {note}" for note in metadata.notes]
    warnings += compare_teacher(metadata, job.spec, dataset, trained_here=trained_here)
    if metadata.input is None and not trained_here:
        warnings.append(
            "the teacher: its run is older than the record of mean and std in weights, so the student's mean and std "
            "are used; run the teacher again to be sure"
        )
    for warning in warnings:
        job.warn(warning)
    student_format = input_format_of(dataset)
    differs = metadata.input is not None and not metadata.input.same_images(student_format)
    teacher_format = metadata.input if differs else None
    network = build_network(source.spec.model, dataset, teacher_format)
    load_weights(network, source.weights)
    if teacher_format is None:
        return network, None
    job.journal.log(
        f"the teacher sees the views with {teacher_format} ({teacher_format.known_from}), "
        f"the student with {student_format}"
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


def build_network(choice: ModelRef, dataset: Dataset, expected: InputFormat | None = None) -> models.Network:
    """Build a network with fresh weights.

    Args:
        choice: The name of the network and its parameters.
        dataset: Decides the number of classes and of channels.
        expected: The images that the network's weights expect; None for those of the data set.

    Raises:
        TrainingError: The network cannot be built for these images, or needs a package that is not installed.
    """
    try:
        return models.build(
            choice.name,
            num_classes=dataset.num_classes,
            image_size=expected.image_size if expected else dataset.image_size,
            in_channels=dataset.channels,
            **choice.params,
        )
    except ImportError as error:
        raise TrainingError("spec", f"{choice.name} needs a package that is not installed here: {error}") from error
    except ValueError as error:
        raise TrainingError("spec", str(error)) from error
