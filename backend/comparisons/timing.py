"""Whether the times of runs may be compared, and without which part.

One run of a seed computes the teacher's logits and keeps them; the others read them from the disk. Which run that is
depends on the order of the training, by default on the first method of the spec, so whole times would show the baseline
slower than it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from backend.comparisons.run_data import Curve, Student
from core.protocol.comparisons import RunConvergence, Timing

REUSED, TEACHER_SECONDS = "speed/teacher_reused", "speed/teacher_seconds"
_ALIKE = 5.0
"""Percentage points by which the shares of kept logits may differ: a few batches are always checked anew."""


def teacher_part(
    reached: RunConvergence, spent: Curve | None, reused: Curve | None, step: int | None
) -> RunConvergence:
    """The same with what the teacher's logits took until the target, and how many came from the disk.

    Args:
        spent: seconds spent on them since the run began, by step.
        reused: share of each epoch's logits that came from the disk, %.
        step: at which the target was reached; None where it was not.
    """
    shares = (
        [value for at, value in zip(reused.step, reused.value, strict=True) if step is None or at <= step]
        if reused
        else []
    )
    seconds = spent.at_step(step) if spent and step is not None else None
    changes = {"teacher_reused": fmean(shares) if shares else None, "teacher_seconds": seconds}
    return reached.model_copy(update=changes)


def basis_of(runs: Iterable[tuple[Student, Mapping[str, Curve], RunConvergence | None]]) -> Timing:
    """What the times of these runs may be compared by: of all methods, since one is to be read beside another.

    Args:
        runs: each with its curves and with when it reached its target; None where it has no target. Curves are drawn
            over time whether or not a target was reached, so a run without one counts with its whole length.
    """
    taught = [item for item in runs if _is_taught(item[0], item[1])]
    shares = [_share(curves, reached) for _, curves, reached in taught]
    if not shares or max(shares) - min(shares) <= _ALIKE:
        return "whole"
    return "student" if all(_is_measured(curves, reached) for _, curves, reached in taught) else "unlike"


def _is_taught(student: Student, curves: Mapping[str, Curve]) -> bool:
    """Whether it asked a teacher; every run that does says where its logits came from."""
    return REUSED in curves or TEACHER_SECONDS in curves or "teacher_logits" in student.environment


def _share(curves: Mapping[str, Curve], reached: RunConvergence | None) -> float:
    """How many of the logits came from the disk until the target, or in the whole run without one, %."""
    if reached is not None and reached.teacher_reused is not None:
        return reached.teacher_reused
    return fmean(curves[REUSED].value) if REUSED in curves else 0.0


def _is_measured(curves: Mapping[str, Curve], reached: RunConvergence | None) -> bool:
    """Whether the time that its logits took is known, and can be taken off wherever its time is shown."""
    if TEACHER_SECONDS not in curves:
        return False
    return reached is None or reached.seconds is None or reached.teacher_seconds is not None


def compared_by(run: RunConvergence, basis: Timing) -> RunConvergence:
    """With the seconds that may be compared; the whole time where they are not to be compared at all."""
    if basis != "student" or run.seconds is None or run.teacher_seconds is None:
        return run
    own = max(0.0, run.seconds - run.teacher_seconds)
    factor = 1.0 if run.gpu_seconds is None or not run.seconds else run.gpu_seconds / run.seconds
    return run.model_copy(
        update={"student_seconds": own, "student_gpu_seconds": None if run.gpu_seconds is None else own * factor}
    )


def seconds_of(run: RunConvergence) -> float | None:
    """What is shown of a run and compared."""
    return run.seconds if run.student_seconds is None else run.student_seconds


def gpu_seconds_of(run: RunConvergence) -> float | None:
    return run.gpu_seconds if run.student_gpu_seconds is None else run.student_gpu_seconds


def notes(basis: Timing, runs: Sequence[RunConvergence]) -> list[str]:
    """What a reader must know of the times."""
    shares = [run.teacher_reused for run in runs if run.teacher_reused is not None]
    if basis == "whole":
        if not shares or min(shares) < 50:
            return []
        return ["Times are without computing the teacher's logits: every run read them from the disk."]
    span = f"{min(shares, default=0.0):.0f} to {max(shares, default=0.0):.0f} % of them came from the disk"
    why = (
        f"the teacher's logits were computed in some runs and read from the disk in others ({span}), which follows "
        "from the order of the runs and is no property of a method"
    )
    if basis == "student":
        return [f"Times are without what was spent on the teacher's logits: {why}."]
    return [
        f"Times are not comparable between methods: {why}. How long they took was not recorded, as older versions did "
        "not: the method that was trained first looks slower than it is."
    ]
