"""What several methods with taps have in common: parameters, and the layers that they read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field, WithJsonSchema, field_validator

from core.catalog.methods.entry import SpecWarning
from core.catalog.registry import Params
from core.catalog.taps import FEATURES, LAST_STAGE, STAGES, Taps, TapShapes, pair_stages, split_suffix

Names = tuple[str, ...]
OneOrSeveral = Annotated[str | Names, WithJsonSchema({"type": "string", "x-several": True})]
"""The name of a layer, which may stand for several, or a list of names. A form offers one name."""


class StagesParams(Params):
    """Parameters of a method that compares the stages of both networks in pairs."""

    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy with the labels.")
    student_taps: Names = Field((STAGES,), min_length=1, description="Maps of the student, from shallow to deep.")
    teacher_taps: Names = Field(
        (STAGES,),
        min_length=1,
        description="Maps of the teacher, from shallow to deep. The deepest of both networks are a pair, and so on "
        "backwards.",
    )


class FeaturesParams(Params):
    """Parameters of a method that compares one layer of both networks."""

    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy with the labels.")
    student_tap: str = Field(FEATURES, description="Layer of the student. Maps are read as vectors.")
    teacher_tap: str = Field(FEATURES, description="Layer of the teacher. Maps are read as vectors.")

    @field_validator("student_tap", "teacher_tap")
    @classmethod
    def _one_layer(cls, name: str) -> str:
        if split_suffix(name)[0] == STAGES:
            raise ValueError(f"names one layer, and {STAGES!r} are several; the deepest is {LAST_STAGE!r}")
        return name


class LayersParams(Params):
    """Base of the parameters of a method that compares one layer of both networks, or several in pairs."""

    @field_validator("student_tap", "teacher_tap", check_fields=False)
    @classmethod
    def _one_name_is_no_list(cls, names: str | Names) -> str | Names:
        if not names:
            raise ValueError("name at least one layer")
        return names[0] if isinstance(names, tuple) and len(names) == 1 else names


def layers_of(params: Any) -> Taps:
    """Return the layers that a method with ``LayersParams`` reads."""
    student, teacher = (
        (names,) if isinstance(names, str) else names for names in (params.student_tap, params.teacher_tap)
    )
    return Taps(student, teacher)


def adapter_field() -> Any:
    """Return the parameter that allows pairs of maps with different numbers of channels."""
    return Field(
        True,
        description="Whether a 1×1 convolution adapts the student's channels if their number differs from the "
        "teacher's. Otherwise such maps are refused.",
    )


def stages_of(params: Any) -> Taps:
    """Return the layers that a method with ``StagesParams`` reads."""
    return Taps(params.student_taps, params.teacher_taps)


def features_of(params: Any) -> Taps:
    """Return the layers that a method with ``FeaturesParams`` reads."""
    return Taps((params.student_tap,), (params.teacher_tap,))


def equal_channels(params: Any, student: TapShapes, teacher: TapShapes) -> Iterator[SpecWarning]:
    """Yield the first pair of stages with different numbers of channels."""
    for own, other in pair_stages(student, teacher):
        if student[own].channels != teacher[other].channels:
            text = f"{_channels(own, student)} in the student and {_channels(other, teacher)} in the teacher"
            yield SpecWarning("params.student_taps", f"{text}; this method needs equal numbers")
            return


def equal_sizes(params: Any, student: TapShapes, teacher: TapShapes) -> Iterator[SpecWarning]:
    """Yield the first pair of layers whose maps are not of one size."""
    for own, other in pair_stages(student, teacher):
        if student[own].stride != teacher[other].stride:
            text = f"{_size(own, student)} in the student and {_size(other, teacher)} in the teacher"
            yield SpecWarning("params.student_tap", f"{text}; this method needs maps of one size")
            return


def resizable(student: TapShapes, teacher: TapShapes, field: str, *, doubles: bool = True) -> Iterator[SpecWarning]:
    """Yield the first pair of layers whose student's maps are too small for a convolution to the teacher's size.

    Args:
        student: Shapes of the student's taps.
        teacher: Shapes of the teacher's taps.
        field: The parameter that names the student's taps.
        doubles: Whether there is a convolution that doubles the size.
    """
    for own, other in pair_stages(student, teacher):
        ratio = student[own].stride / max(teacher[other].stride, 1)
        if ratio > 1 and not (doubles and ratio == 2):
            limit = " by more than a factor of 2" if doubles else ""
            text = f"{_size(own, student)} in the student and {_size(other, teacher)} in the teacher"
            yield SpecWarning(f"params.{field}", f"{text}; the student's maps must not be smaller{limit}")
            return


def _channels(name: str, shapes: TapShapes) -> str:
    return f"{name} has {shapes[name].channels} channels"


def _size(name: str, shapes: TapShapes) -> str:
    stride = shapes[name].stride
    return f"{name} has maps of {'the whole' if stride == 1 else f'1/{stride} of the'} side of the image"
