"""Checks of a method within its experiment."""

from __future__ import annotations

from collections.abc import Iterator

from core.catalog import DATASETS, TASKS, DatasetFacts
from core.catalog.augmentations import Stage
from core.catalog.methods import MethodContext
from core.specs.augment import augmentations_of
from core.specs.components import DatasetRef, MethodRef
from core.specs.momenta import momentum_problems
from core.specs.problems import ProblemParts
from core.specs.region_checks import background_problems
from core.specs.stages import stage_problems
from core.specs.training import Training


def method_context(training: Training, dataset: DatasetRef, facts: DatasetFacts | None) -> MethodContext:
    """Return the context on which a method's warnings and problems may depend.

    Args:
        training: The training with the method.
        dataset: The data set.
        facts: What is known of it; None if only the worker can know it.
    """
    mixes = next((ref.name for ref in augmentations_of(training.augment) if ref.entry.stage is Stage.MIX), "")
    return MethodContext(
        training.epochs,
        training.batch_size,
        facts.num_classes if facts else None,
        facts,
        mixes,
        TASKS[DATASETS[dataset.name].task].rows_are_regions,
    )


def method_problems(
    method: MethodRef,
    dataset: DatasetRef,
    facts: DatasetFacts | None,
    training: Training,
    *,
    has_teacher: bool,
) -> Iterator[ProblemParts]:
    """Yield why a method, or one that is added to it, cannot be trained in an experiment, with paths within it.

    Args:
        method: The method.
        dataset: The data set.
        facts: What is known of it; None if only the worker can know it.
        training: The training with the method.
        has_teacher: Whether it has a teacher.
    """
    yield from momentum_problems(method, training)
    task, context = DATASETS[dataset.name].task, method_context(training, dataset, facts)
    for number, member in enumerate(method.members):
        place: tuple[int | str, ...] = ("with", number - 1) if number else ()
        entry, params = member.entry, member.parsed_params
        for found in entry.problems(params, context) if entry.problems else ():
            yield (*place, *(found.field.split(".") if found.field else ())), found.message, member.name
        if training.mixture and entry.taps_of(params).strong_view:
            mixture = f"{training.mixture} in training.augment mixes two"
            yield place, f"{member.name} reads a second view of each image, and {mixture}", member.name
        for path, text, value in stage_problems(member, member.shares, training.epochs):
            yield (*place, *path), text, value
        if entry.tasks and task not in entry.tasks:
            text = f"{member.name} is for {' and '.join(entry.tasks)}; {dataset.name} is a data set of {task}"
            yield place, text, member.name
        if entry.needs_teacher and not has_teacher:
            yield place, f"{member.name} needs a teacher, and the spec has none", member.name
    yield from class_problems(method, dataset, context)


def class_problems(method: MethodRef, dataset: DatasetRef, context: MethodContext) -> Iterator[ProblemParts]:
    """Yield which methods need more classes than a data set has, and what the background's parameters cannot be.

    Args:
        method: The method, with those that are added to it.
        dataset: The data set.
        context: What is known of it.
    """
    if context.num_classes is not None:
        for number, member in enumerate(method.members):
            place: tuple[int | str, ...] = ("with", number - 1) if number else ()
            needed = member.entry.classes_needed_by(member.parsed_params)
            text = needed.problem(member.name, dataset.name, context.num_classes, background=context.rows_vary)
            if text:
                yield (*place, *(("params", needed.field) if needed.field else ())), text, member.name
    yield from background_problems(method, dataset.name, context)


def problems_of_data(
    method: MethodRef, dataset: DatasetRef, training: Training, facts: DatasetFacts
) -> Iterator[ProblemParts]:
    """Yield what makes a method impossible on a data set whose facts only the worker knows.

    At submission such a data set has no facts, and nothing that depends on them is found.

    Args:
        method: The method, with those that are added to it.
        dataset: The data set.
        training: The training with the method.
        facts: What the worker found.
    """
    known, unknown = (method_context(training, dataset, given) for given in (facts, None))
    for number, member in enumerate(method.members):
        problems, params = member.entry.problems, member.parsed_params
        if problems is None:
            continue
        before = set(problems(params, unknown))
        for found in problems(params, known):
            if found not in before:
                place: tuple[int | str, ...] = ("with", number - 1) if number else ()
                yield (*place, *(found.field.split(".") if found.field else ())), found.message, member.name
    yield from class_problems(method, dataset, known)
