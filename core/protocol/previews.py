"""Previews: what submitting a spec would create."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from core.events import AnyFloat
from core.protocol.base import Message, ProblemField, RunState


class PlannedRunInfo(Message):
    """A run that would be created."""

    label: str
    role: Literal["teacher", "student"]
    model: str
    seed: int
    shared: bool = Field(False, description="The run is a teacher that exists and will not be trained again.")


class DeviceTime(Message):
    """Estimated time on one kind of device, with the start of each run and its final measurements."""

    device: str = Field(description='The kind of device, such as "cpu" or "cuda NVIDIA H200".')
    seconds: float = Field(
        description="Time of the planned runs one after the other, multiplied by the GPUs of each run."
    )
    runs: int = Field(description="Number of planned runs that are estimated.")
    based_on: int = Field(description="Number of past runs that the estimate is based on.")


class Estimate(Message):
    """Time of the planned runs, by the median of past runs with the same data set, network, method and batch size."""

    times: list[DeviceTime] = Field(default_factory=list)
    unknown: int = Field(0, description="Number of planned runs without a comparable run that has succeeded.")


class FieldDifference(Message):
    """A field in which an existing teacher differs from the teacher of the spec."""

    path: str = Field(description="Path in the spec, such as `training.epochs` or `teacher.model.name`.")
    here: Any = Field(description="Value in the spec.")
    there: Any = Field(description="Value that the existing teacher was trained with.")


class PlannedTeacher(Message):
    """The teacher of a spec: an existing one, or a new one with the reason why it is new."""

    fingerprint: str
    model: str
    dataset: str
    seed: int
    epochs: int = Field(description="Number of epochs; 0 if the teacher's weights are used without training.")
    run_id: str | None = Field(None, description="Id of the existing run that is used; null if a new one is created.")
    state: RunState | None = Field(None, description="State of the existing run.")
    top1: AnyFloat | None = Field(None, description="Headline metric of the existing run, as the test accuracy in %.")
    nearest: str | None = Field(
        None,
        description="For a new teacher: id of the existing teacher on the same data set that differs in the fewest "
        "fields.",
    )
    differences: list[FieldDifference] = Field(
        default_factory=list, description="The fields in which the new teacher differs from `nearest`."
    )
    sentence: str = Field(description="Which teacher is used and why, as a sentence.")


class Preview(Message):
    """What submitting a spec would create. Nothing is created by the preview."""

    spec: dict[str, Any] = Field(
        default_factory=dict, description="The spec with its preset and all defaults filled in."
    )
    draft: dict[str, Any] = Field(
        default_factory=dict,
        description="The spec as a draft to edit: automatic labels are left out, so that they follow when the methods "
        "change. In the draft of a clone, the teacher's training is written out too.",
    )
    teacher: PlannedTeacher | None = Field(
        None,
        description="The students' teacher; the first if there are several, and null if no method needs a teacher.",
    )
    teachers: list[PlannedTeacher] = Field(
        default_factory=list, description="All teachers, each after its own teacher; the last is `teacher`."
    )
    estimate: Estimate = Field(default_factory=Estimate)
    runs: list[PlannedRunInfo]
    warnings: list[ProblemField] = Field(default_factory=list)

    @property
    def teacher_sentences(self) -> list[str]:
        """What becomes of each teacher. A backend of an earlier version describes one."""
        return [item.sentence for item in self.teachers or filter(None, [self.teacher])]
