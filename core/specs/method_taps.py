"""Checks of the layers that a method reads, before a network is built."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from core.catalog import MODELS
from core.catalog.taps import TapShape, expand, is_left_out, split_suffix, unknown_tap, wrong_kind
from core.specs.components import MethodRef, ModelRef, WeightedMethod
from core.specs.problems import ProblemParts


def tap_problems(method: MethodRef, student: ModelRef, teacher: ModelRef | None) -> Iterator[ProblemParts]:
    """Yield the taps that the networks do not have, or a method cannot compare, with paths within the method.

    Only names and shapes of stages are checked here, and only of networks whose stages the catalog knows. The worker
    checks all taps before the first step.

    Args:
        method: The method, with those that are added to it.
        student: The student's network.
        teacher: The teacher's network; None without a teacher.
    """
    for number, member in enumerate(method.members):
        place: tuple[int | str, ...] = ("with", number - 1) if number else ()
        for path, text, value in _of_member(member, student, teacher):
            yield (*place, *path), text, value


def _of_member(method: WeightedMethod, student: ModelRef, teacher: ModelRef | None) -> Iterator[ProblemParts]:
    entry = method.entry
    taps = entry.taps_of(method.parsed_params)
    for role, names, model in (("student", taps.student, student), ("teacher", taps.teacher, teacher)):
        if not model:
            continue
        known = MODELS[model.name].taps
        for name in names:
            if is_left_out(name, names, known):
                continue
            if unknown := unknown_tap(name, known):
                yield ("params", *_field_of(name, role, method.params)), f"the {role} {model.name}: {unknown}", name
            elif entry.layers and (wrong := wrong_kind(name, known, entry.layers)):
                yield ("params", *_field_of(name, role, method.params)), f"{method.name}: {wrong}", name
        count = len(expand(names, known))
        if known and names and count < entry.least_layers:
            text = f"{method.name} compares at least {entry.least_layers} stages with each other, and here is {count}"
            yield ("params", *_field_of(names[0], role, method.params)), f"{text} of the {role} {model.name}", None
    own, other = _shapes(taps.student, student), _shapes(taps.teacher, teacher)
    if method.entry.joins and own and other:
        for refusal in method.entry.joins(method.parsed_params, own, other):
            yield tuple(refusal.field.split(".")), f"{method.name}: {refusal.message}", None


def _shapes(names: Sequence[str], model: ModelRef | None) -> dict[str, TapShape]:
    """Return the shapes of taps in order; none if the catalog does not know all of them."""
    entry = MODELS[model.name] if model else None
    known = entry.tap_shapes if entry else {}
    expanded = expand(names, entry.taps if entry else ())
    if not all(split_suffix(name)[0] in known for name in expanded):
        return {}
    return {name: known[split_suffix(name)[0]] for name in expanded}


def reads_strong_view(method: MethodRef) -> bool:
    """Return whether a method, or one that is added to it, reads a second view of each image."""
    return any(member.entry.taps_of(member.parsed_params).strong_view for member in method.members)


def _field_of(name: str, role: str, params: dict[str, Any]) -> tuple[str, ...]:
    """Return the parameter that names a tap; empty if it is a tap of the method's own choice."""
    for field, value in sorted(params.items(), key=lambda item: role not in item[0]):
        if value == name or (isinstance(value, list | tuple) and name in value):
            return (field,)
    return ()
