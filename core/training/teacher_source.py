"""A run's teacher: where it is, and its network behind the input that its weights expect."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from core import models
from core.data import Dataset
from core.events import Journal
from core.models.metadata import InputFormat, read_metadata
from core.specs import ModelRef, RunSpec
from core.training.checkpoint import load_weights
from core.training.errors import TrainingError
from core.training.teacher_input import adapt_input, input_format_of
from core.training.weights_metadata import compare_teacher


@dataclass(frozen=True)
class TeacherSource:
    """Where a student's teacher is: how it was made, and its weights."""

    spec: RunSpec
    weights: Path


def uses_weights_unchanged(spec: RunSpec) -> bool:
    """Whether a run trains nothing, and hands out weights from elsewhere as they are."""
    return spec.weights is not None and not spec.weights.fine_tune


def load_teacher(
    source: TeacherSource, spec: RunSpec, dataset: Dataset, journal: Journal
) -> tuple[nn.Module, InputFormat | None]:
    """The teacher's network with its weights, and the images that it expects where those are not the student's.

    Raises TrainingError where its weights cannot be read, are of another network, or are of other classes.
    """
    try:
        told = read_metadata(source.weights)
    except models.WeightsError as error:
        raise TrainingError("error", f"the teacher's weights: {error}") from error
    trained_here = not uses_weights_unchanged(source.spec)
    warnings = [f"the teacher: {note}" for note in told.notes]
    warnings += compare_teacher(told, spec, dataset, trained_here=trained_here)
    if told.input is None and not trained_here:
        warnings.append(
            "the teacher: its run was made before mean and std belonged to the weights, so the student's own are used; "
            "run it again to be sure"
        )
    for warning in warnings:
        journal.log(warning, "warning")
    own = input_format_of(dataset)
    wanted = told.input if told.input and not told.input.same_images(own) else None
    network = build_network(source.spec.model, dataset, wanted)
    load_weights(network, source.weights)
    if wanted is None:
        return network, None
    journal.log(f"the teacher sees the views with {wanted} ({wanted.known_from}), the student with {own}")
    return adapt_teacher_input(network, own, wanted), wanted


def adapt_teacher_input(network: nn.Module, shown: InputFormat, wanted: InputFormat | None) -> nn.Module:
    """``adapt_input``, whose error is then the run's: TrainingError."""
    try:
        return adapt_input(network, shown, wanted)
    except ValueError as error:
        raise TrainingError("spec", f"the teacher's weights: {error}") from error


def build_network(choice: ModelRef, dataset: Dataset, wanted: InputFormat | None = None) -> models.Network:
    """A fresh network for the images of a data set, or for those that its weights expect."""
    try:
        return models.build(
            choice.name,
            num_classes=dataset.num_classes,
            image_size=wanted.image_size if wanted else dataset.image_size,
            in_channels=dataset.channels,
            **choice.params,
        )
    except ImportError as error:
        raise TrainingError("spec", f"{choice.name} needs a package that is not installed here: {error}") from error
    except ValueError as error:
        raise TrainingError("spec", str(error)) from error
