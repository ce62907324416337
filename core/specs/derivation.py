"""Turns a complete spec into one that can be edited: values that follow from other fields are handled.

A stored spec is complete. Two of its values follow from others: an automatic label must change with the method, and a
teacher that is trained "like the students" must not become another teacher when the students' training changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from core.catalog import UnknownNameError
from core.specs.field_paths import with_field
from core.specs.labels import without_automatic_labels
from core.specs.presets import apply_preset
from core.specs.training import Training

TEACHER_TRAINING = "teacher.training"


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
    """Return a copy in which the teacher's training is written out, if it followed the students' training.

    The teacher's fingerprint stays the same. The data is returned unchanged if there is no teacher, if the teacher has
    a training of its own or weights that are used as they are, and if the students' training is not complete.
    """
    try:
        filled = apply_preset(data) if isinstance(data, dict) else None
    except UnknownNameError:
        return data
    teacher = filled.get("teacher") if filled else None
    if not filled or not isinstance(teacher, Mapping) or teacher.get("training") is not None:
        return data
    weights = teacher.get("weights")
    if weights and not (isinstance(weights, Mapping) and weights.get("fine_tune")):
        return data
    try:
        training = Training.model_validate(filled.get("training"))
    except ValidationError:
        return data
    return with_field(data, TEACHER_TRAINING, training.for_teacher().model_dump(mode="json"))


def _changes_training(path: str) -> bool:
    return path == "training" or path.startswith("training.")
