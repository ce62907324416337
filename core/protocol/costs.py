"""What the methods of a comparison cost: time, GPU-hours and energy, with the part of the teacher's outputs apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import Field

from common.durations import duration_text
from common.formatting import NOTHING, share_text, value_text
from core.protocol.base import Message

_NOT_MEASURED = "not measured"
_TEACHER = "teacher, its own training"


class CostValue(Message):
    """A mean over the runs that measured it."""

    mean: float
    n: int = Field(description="Number of runs that measured it.")


class MethodCost(Message):
    """What one run of a method costs, as the mean over its runs that succeeded. Null: no run measured it.

    A run asks its teacher for outputs, or reads them from disk if another run with the same images computed them
    before. That part of the time depends on the order of the runs, and so it is apart.
    """

    label: str
    is_teacher: bool = Field(False, description="Whether this is the training of the teacher, which all methods share.")
    uses_teacher: bool = Field(False, description="Whether the runs used the outputs of a teacher.")
    runs: int = Field(description="Number of runs that succeeded.")
    seconds: CostValue | None = Field(
        None, description="Seconds of training with its evaluations, without starting and final measurements."
    )
    student_seconds: CostValue | None = Field(None, description="These seconds without the teacher's part.")
    teacher_seconds: CostValue | None = Field(
        None, description="The teacher's part: computing its outputs, or reading them from disk."
    )
    gpu_hours: CostValue | None = Field(None, description="Hours multiplied by the number of GPUs; null on a CPU.")
    teacher_gpu_hours: CostValue | None = Field(None, description="The teacher's part of the GPU-hours.")
    gpu_energy: CostValue | None = Field(
        None, description="Energy of the run's GPUs while it trained, Wh; other programs on the same GPUs included."
    )
    teacher_gpu_energy: CostValue | None = Field(
        None, description="The teacher's part of this energy, Wh, estimated by its share of the time."
    )
    cpu_energy: CostValue | None = Field(
        None, description="Energy of all processors of the machine while the run trained, Wh."
    )


@dataclass(frozen=True)
class CostTable:
    """The costs as texts.

    Attributes:
        header: Titles of the columns. A column that nothing was measured for is left out.
        rows: The cells of each row.
        notes: Sentences below the table.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]


def cost_table(costs: Sequence[MethodCost]) -> CostTable | None:
    """Return the table of the costs; None if no run that succeeded has any."""
    shown = [cost for cost in costs if cost.seconds is not None]
    if not shown:
        return None
    columns: list[tuple[str, Callable[[MethodCost], str]]] = [
        ("Training without the teacher's part", lambda cost: _time(cost, cost.student_seconds)),
        ("Teacher's part", _teacher_time),
    ]
    if any(cost.gpu_hours for cost in shown):
        columns.append(("GPU-hours", lambda cost: _with_part(cost, cost.gpu_hours, cost.teacher_gpu_hours, "")))
    if any(cost.gpu_energy for cost in shown):
        columns.append(
            (
                "GPU energy",
                lambda cost: _with_part(cost, cost.gpu_energy, cost.teacher_gpu_energy, "Wh", about="about "),
            )
        )
    if any(cost.cpu_energy for cost in shown):
        columns.append(("Energy of the processors", lambda cost: _with_part(cost, cost.cpu_energy, None, "Wh")))
    rows = [
        [_TEACHER if cost.is_teacher else cost.label, str(cost.runs), *(text(cost) for _, text in columns)]
        for cost in shown
    ]
    return CostTable(["Method", "Runs", *(title for title, _ in columns)], rows, _notes(shown))


def _time(cost: MethodCost, value: CostValue | None) -> str:
    return _NOT_MEASURED if value is None else duration_text(value.mean) + _count(cost, value)


def _teacher_time(cost: MethodCost) -> str:
    if not cost.uses_teacher:
        return NOTHING
    text, part, whole = _time(cost, cost.teacher_seconds), cost.teacher_seconds, cost.seconds
    if part is None or whole is None or part.n < whole.n or not whole.mean:
        return text
    return f"{text}, {share_text(part.mean / whole.mean)}"


def _with_part(cost: MethodCost, value: CostValue | None, part: CostValue | None, unit: str, *, about: str = "") -> str:
    """Return a value, followed by the teacher's part of it."""
    if value is None:
        return _NOT_MEASURED
    text = value_text(value.mean, unit) + _count(cost, value)
    return text if part is None else f"{text}; teacher's part {about}{value_text(part.mean, unit)}"


def _count(cost: MethodCost, value: CostValue) -> str:
    """Return how many runs measured a value, unless all did."""
    return "" if value.n == cost.runs else f" ({value.n} of {cost.runs} runs)"


def _notes(shown: Sequence[MethodCost]) -> list[str]:
    notes = [
        "Means over the runs that succeeded, of the training with its evaluations; starting and final measurements are "
        "not included."
    ]
    if any(cost.uses_teacher for cost in shown):
        notes.append(
            "The teacher's part is computing the teacher's outputs for the training images, or reading them from disk "
            "if another run computed them before. It depends on the order of the runs and not on the method, so "
            "compare methods without it."
        )
    if any(cost.is_teacher for cost in shown):
        notes.append("The teacher's own training is a run apart, which all methods share.")
    if any(cost.gpu_energy for cost in shown):
        notes.append(
            "GPU energy is that of the run's GPUs, with other programs on them; the teacher's part of it is estimated "
            "by its share of the time."
        )
    elif any(cost.gpu_hours for cost in shown):
        notes.append(
            "The energy of the GPUs was not measured: an earlier version trained, or the driver did not allow it."
        )
    elif not any(cost.cpu_energy for cost in shown):
        notes.append(
            "Energy was not measured: the runs had no GPU, and the counters of the processors could not be read."
        )
    if any(cost.cpu_energy for cost in shown):
        notes.append("The energy of the processors is that of the whole machine, with all programs on it.")
    return notes
