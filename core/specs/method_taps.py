"""Checks of the layers that a method reads, before a network is built."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from core.catalog import METHODS, MODELS
from core.catalog.taps import unknown_tap
from core.specs.components import MethodRef, ModelRef
from core.specs.problems import ProblemParts
from core.specs.training import Training


def tap_problems(index: int, method: MethodRef, student: ModelRef, teacher: ModelRef | None) -> Iterator[ProblemParts]:
    """Yield the taps of a method that the networks of an experiment do not have.

    Only names of stages are checked here, and only of networks whose stages the catalog knows. The worker checks all
    taps before the first step.

    Args:
        index: Number of the method in the spec, from 0.
        method: The method.
        student: The student's network.
        teacher: The teacher's network; None without a teacher.
    """
    taps = METHODS[method.name].taps_of(method.parsed_params)
    for role, names, model in (("student", taps.student, student), ("teacher", taps.teacher, teacher)):
        known = MODELS[model.name].taps if model else ()
        for name in names:
            if model and (problem := unknown_tap(name, known)):
                field = _field_of(name, role, method.params)
                yield ("methods", index, "params", *field), f"the {role} {model.name}: {problem}", name


def reads_strong_view(method: MethodRef) -> bool:
    """Return whether a method reads a second view of each image."""
    return METHODS[method.name].taps_of(method.parsed_params).strong_view


def strong_view_problems(index: int, method: MethodRef, training: Training) -> Iterator[ProblemParts]:
    """Yield why a method cannot read a second view of each image in a training.

    Args:
        index: Number of the method in the spec, from 0.
        method: The method.
        training: The training.
    """
    if training.mixture and reads_strong_view(method):
        text = f"{method.name} reads a second view of each image, and {training.mixture} in training.augment mixes two"
        yield ("methods", index), text, method.name


def _field_of(name: str, role: str, params: dict[str, Any]) -> tuple[str, ...]:
    """Return the parameter that names a tap; empty if it is a tap of the method's own choice."""
    for field, value in sorted(params.items(), key=lambda item: role not in item[0]):
        if value == name or (isinstance(value, list | tuple) and name in value):
            return (field,)
    return ()
