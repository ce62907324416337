"""Turns a complete spec into one that can be edited: values that follow from other fields are handled.

A stored spec is complete. Two of its values follow from others: an automatic label must change with the method, and a
teacher that is trained "like the students" must not become another teacher when the students' training changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from core.catalog import UnknownNameError
from core.specs.field_paths import with_fields
from core.specs.labels import without_automatic_labels
from core.specs.presets import filled_in
from core.specs.teachers import MAX_CHAIN
from core.specs.training import Training


def editable_copy(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the spec without automatic labels and with the teacher's training written out, to be edited."""
    editable: dict[str, Any] = with_teacher_training(without_automatic_labels(spec))
    return editable


def detach_derived_fields(data: Any, paths: Iterable[str]) -> Any:
    """Return a spec's plain data, prepared for a change of some fields.

    Automatic labels are removed. The teacher's training is written out only if ``training`` changes, so that an
    unchanged copy stays equal to the original.

    Args:
        data: The spec.
        paths: Paths of the fields that will change.
    """
    data = without_automatic_labels(data)
    return with_teacher_training(data) if any(_changes_training(path) for path in paths) else data


def with_teacher_training(data: Any) -> Any:
    """Return a copy in which the training of each teacher is written out that followed the students' training.

    The teachers' fingerprints stay the same. The data is returned unchanged if there is no such teacher, and if the
    students' training is not complete. A teacher whose weights are used as they are has no training.
    """
    try:
        filled = filled_in(data) if isinstance(data, dict) else None
    except UnknownNameError:
        return data
    paths = list(_trained_like_students(filled)) if filled else []
    if not filled or not paths:
        return data
    try:
        training = Training.model_validate(filled.get("training"))
    except ValidationError:
        return data
    written = training.for_teacher().model_dump(mode="json")
    return with_fields(data, {f"{path}.training": written for path in paths})


def _trained_like_students(data: Mapping[str, Any]) -> Iterator[str]:
    """Yield the paths of the teachers that are trained like the students."""
    listed = data.get("teachers")
    pending = [("teacher", data.get("teacher"))]
    pending += [(f"teachers.{n}", item) for n, item in enumerate(listed if isinstance(listed, list | tuple) else ())]
    while pending:
        path, teacher = pending.pop(0)
        if not isinstance(teacher, Mapping) or path.count("teacher") > MAX_CHAIN:
            continue
        pending.append((f"{path}.teacher", teacher.get("teacher")))
        weights = teacher.get("weights")
        is_trained = not weights or (isinstance(weights, Mapping) and weights.get("fine_tune"))
        if teacher.get("training") is None and is_trained:
            yield path


def _changes_training(path: str) -> bool:
    return path == "training" or path.startswith("training.")
