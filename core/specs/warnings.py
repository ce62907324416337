"""Warnings about settings that are valid but do not have the effect that they seem to have."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from core.catalog import DATASETS, MODELS, DatasetFacts
from core.catalog.methods import MethodContext
from core.catalog.models import ModelEntry
from core.catalog.optimizers import LR
from core.specs.components import AddedMethod, MethodRef, ModelRef, WeightedMethod
from core.specs.experiment import ExperimentSpec
from core.specs.labels import misleading_label_of
from core.specs.method_checks import method_context
from core.specs.method_taps import reads_strong_view
from core.specs.presets import preset_deviations
from core.specs.problems import Problem
from core.specs.region_checks import background_warnings
from core.specs.teachers import Path
from core.specs.training import Optimizer, Training
from core.specs.weights import size_warning

_AVERAGE_THAT_ACTS = 0.25
"""Span of a moving average as a share of the training, up to which e⁻⁴ (2 %) of the first weights are left in it."""
_RATE_THAT_BREAKS = 20


def warnings_of(spec: ExperimentSpec) -> list[Problem]:
    """Return warnings about a valid spec, each with the path of its field."""
    found: list[Problem] = []
    task = DATASETS[spec.dataset.name].task
    facts = DATASETS[spec.dataset.name].facts(spec.dataset.parsed_params)
    if facts:
        for path, model in _models(spec):
            if text := size_warning(model, facts):
                found.append(Problem(path, text))
    found.extend(_random_weights(spec))
    epochs, schedule = spec.training.epochs, spec.training.schedule
    if late := [milestone for milestone in schedule.milestones if milestone >= epochs]:
        text = f"the training ends after {epochs} epochs, before {_of_all(late, schedule.milestones)} milestones"
        found.append(Problem("training.schedule.milestones", text))
    found.extend(_training(spec.training, facts))
    if spec.training.without_strong_view() != spec.training and not any(map(reads_strong_view, spec.methods)):
        found.append(
            Problem("training.strong_augment", "no method of this experiment reads a second view of the images")
        )
    if spec.training.label_smoothing and (without := [item.label for item in spec.methods if not item.reads_labels]):
        text = f"has no effect in {', '.join(without)}: no cross-entropy with the labels"
        found.append(Problem("training.label_smoothing", text))
    if spec.preset and (apart := preset_deviations(spec.preset, spec.model_dump(mode="json"))):
        text = f"this is not {spec.preset} as published: {', '.join(apart)} of its own"
        found.append(Problem("preset", text))
    for teacher_path, teacher in spec.all_teachers():
        if teacher.method:
            own = method_context(teacher.training_like(spec.training), spec.dataset, facts)
            found.extend(method_warnings(teacher.method, own, f"{_dotted(teacher_path)}.method"))
            found.extend(_other_defaults(teacher.method, task, f"{_dotted(teacher_path)}.method"))
    context = method_context(spec.training, spec.dataset, facts)
    for index, method in enumerate(spec.methods):
        path = f"methods.{index}"
        if text := misleading_label_of(method.model_dump(mode="json")):
            found.append(Problem(f"{path}.label", text))
        found.extend(method_warnings(method, context, path))
        found.extend(_other_defaults(method, task, path))
    found.extend(_seeds(spec))
    return found


def _random_weights(spec: ExperimentSpec) -> Iterator[Problem]:
    """Yield what is wrong with networks because they begin with random weights."""
    begin = [(f"{_dotted(path)}.model", teacher.model) for path, teacher in spec.all_teachers() if not teacher.weights]
    for place, model in (*begin, ("student.model", spec.student.model)):
        entry: ModelEntry = MODELS[model.name]
        if entry.random_weights_warnings:
            for name, text in entry.random_weights_warnings(model.parsed_params):
                yield Problem(f"{place}.params.{name}", text)


def _seeds(spec: ExperimentSpec) -> Iterator[Problem]:
    """Yield the warning about too few seeds for any result."""
    comparisons = len(spec.methods) - 1
    if until := spec.until_decided:
        if until.fewest_pairs(comparisons) is None:
            text = f"{until.most} pairs cannot decide: the sign-flip test needs more for p < {until.alpha:g}"
            yield Problem("seeds.most", f"{text} over {comparisons} comparisons" if comparisons > 1 else text)
    elif len(spec.first_seeds) < 3 and comparisons:
        text = f"{len(spec.first_seeds)} seed(s) give no usable interval; {_fewest_seeds(comparisons)}"
        yield Problem("seeds", text)


def _training(training: Training, facts: DatasetFacts | None) -> Iterator[Problem]:
    """Yield warnings about an average that never forgets the first weights, and about the optimiser."""
    if training.ema is not None and facts:
        steps = -(-facts.train_size // training.batch_size) * training.epochs
        span = round(1 / (1 - training.ema))
        if span > steps * _AVERAGE_THAT_ACTS:
            text = f"averages over about {span:,} steps, and the training has {steps:,}: the first weights stay in it"
            yield Problem("training.ema", text)
    optimizer = training.optimizer
    if optimizer.entry.lr < LR and optimizer.lr >= _RATE_THAT_BREAKS * optimizer.entry.lr:
        text = f"{optimizer.lr:g} is {optimizer.lr / optimizer.entry.lr:.3g} times the usual rate of {optimizer.name}"
        yield Problem("training.optimizer.lr", text)
    if not optimizer.entry.sgd_momentum:
        for name in ("momentum", "nesterov"):
            if getattr(optimizer, name) != Optimizer.model_fields[name].default:
                yield Problem(f"training.optimizer.{name}", f"{optimizer.name} does not read this")


def method_warnings(method: MethodRef, context: MethodContext, path: str = "method") -> Iterator[Problem]:
    """Yield the warnings about a method, and about those that are added to it.

    A worker that knows the classes of a data set calls this too, because only then can ε be compared with its bound.

    Args:
        method: The method.
        context: What they may depend on.
        path: The path of the method.
    """
    for number, member in enumerate(method.members):
        place = f"{path}.with.{number - 1}" if number else path
        warnings = member.entry.warnings
        for warning in warnings(member.parsed_params, context) if warnings else ():
            yield Problem(f"{place}.{warning.field}" if warning.field else place, warning.message)
    for within, text in background_warnings(method, context):
        yield Problem(f"{path}.{_dotted(within)}", text)


def _other_defaults(method: MethodRef, task: str, path: str) -> Iterator[Problem]:
    for number, member in enumerate(method.members):
        if text := other_defaults(member, task):
            yield Problem(f"{path}.with.{number - 1}" if number else path, text)


def other_defaults(method: WeightedMethod, task: str) -> str | None:
    """Return what to write in place of defaults of a method that are for other tasks; None if there is nothing.

    A default does not depend on the task, so that a spec means the same training in every version. A form starts with
    these values.

    Args:
        method: The method.
        task: The name of the task.
    """
    entry, params = method.entry, method.parsed_params
    # An added method has no weight of cross-entropy, and a term with a share no weight.
    unused = {entry.label_weight} if isinstance(method, AddedMethod) else set()
    unused |= {names.get(term) for names in (entry.weight_params, entry.share_params) for term in method.shares}

    def is_default(name: str) -> bool:
        return bool(getattr(params, name) == entry.params.model_fields[name].default)

    left: dict[str, Any] = {}
    if usual := entry.task_params.get(task, {}):
        left["params"] = {name: value for name, value in usual.items() if name not in unused and is_default(name)}
    if shares := entry.task_shares.get(task, {}):
        left["shares"] = {
            term: share
            for term, share in shares.items()
            if term not in method.shares and is_default(entry.weight_params[term])
        }
    words = [f"{field}: {json.dumps(values, ensure_ascii=False)}" for field, values in left.items() if values]
    if not words:
        return None
    return f"some defaults of {method.name} are for other tasks; for {task} write {' and '.join(words)}"


def _fewest_seeds(comparisons: int) -> str:
    """Return the number of pairs that an exact sign-flip test needs after Holm's correction; its p is at "
    "least 2^(1−n)."""
    needed = 6
    while comparisons * 2.0 ** (1 - needed) >= 0.05:
        needed += 1
    over = f" over {comparisons} comparisons with the first method" if comparisons > 1 else ""
    return f"at least {needed} are needed for p < 0.05{over}"


def _of_all(some: Sequence[int], every: Sequence[int]) -> str:
    return f"all {len(every)}" if len(some) == len(every) else f"{len(some)} of {len(every)}"


def _models(spec: ExperimentSpec) -> list[tuple[str, ModelRef]]:
    student = [("student.model", spec.student.model)]
    teachers = [(f"{_dotted(path)}.model", teacher.model) for path, teacher in spec.all_teachers()]
    return [*teachers, *student]


def _dotted(path: Path) -> str:
    return ".".join(map(str, path))
