"""A spec as the beginning of another one: what was derived from its fields is left to be derived again.

A stored spec is complete. Two of its values follow from others and must not outlive them when a person changes those:
a label that nobody typed, and a teacher that is trained "as the students are", which is then another teacher.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from core.catalog import UnknownNameError
from core.specs.components import Training
from core.specs.field_paths import with_field
from core.specs.labels import without_automatic_labels
from core.specs.presets import apply_preset

TEACHER_TRAINING = "teacher.training"


def editable_copy(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What a person goes on writing from: the same experiment, whose teacher stays the same whatever is changed."""
    found: dict[str, Any] = with_teacher_training(without_automatic_labels(spec))
    return found


def detach_derived_fields(data: Any, paths: Iterable[str]) -> Any:
    """Plain data whose fields at these paths are about to change: only what must stay is held fast.

    The teacher is pinned only where ``training`` changes, so that an unchanged copy stays the copy that it is.
    """
    data = without_automatic_labels(data)
    return with_teacher_training(data) if any(_changes_training(path) for path in paths) else data


def with_teacher_training(data: Any) -> Any:
    """A copy in which the teacher's training is written out where it followed the students'.

    The teacher's fingerprint stays what it is. Data comes back as it is where nothing follows (no teacher, a training
    of its own, weights that are used as they are), and where the students' training is not complete without a change.
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
