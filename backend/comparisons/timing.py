"""Whether the times of runs may be compared, and which part of them.

One run of a seed computes the teacher's logits and stores them; the others read them from disk. Which run computes them
depends on the order of the trainings (by default it is a run of the spec's first method), so whole times would show the
baseline slower than it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from backend.comparisons.run_data import Curve, Student
from core.protocol.comparisons import RunConvergence, Timing

REUSED, TEACHER_SECONDS = "speed/teacher_reused", "speed/teacher_seconds"
_TOLERANCE = 5.0
"""Percentage points by which the shares of cached logits may differ: a few batches are always computed as a check."""


def teacher_part(
    reached: RunConvergence, spent: Curve | None, reused: Curve | None, step: int | None
) -> RunConvergence:
    """Return ``reached`` with the time of the teacher's logits until the target, and the share read from disk.

    Args:
        reached: when the run reached its target.
        spent: seconds spent on the teacher's logits since the run began, by step.
        reused: share of each epoch's logits that were read from disk, %.
        step: step at which the target was reached; None if it was not reached.
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
    """Return which part of the times of these runs may be compared; the same for all methods.

    Args:
        runs: each run with its curves, and with its convergence or None if it has no target. Curves are drawn over time
            whether or not a target was reached, so a run without a target counts with its whole length.
    """
    taught = [item for item in runs if _has_teacher(item[0], item[1])]
    shares = [_reused_share(curves, reached) for _, curves, reached in taught]
    if not shares or max(shares) - min(shares) <= _TOLERANCE:
        return "whole"
    return "student" if all(_is_measured(curves, reached) for _, curves, reached in taught) else "unlike"


def _has_teacher(student: Student, curves: Mapping[str, Curve]) -> bool:
    """Return whether the run used a teacher's logits; every such run records where they came from."""
    return REUSED in curves or TEACHER_SECONDS in curves or "teacher_logits" in student.environment


def _reused_share(curves: Mapping[str, Curve], reached: RunConvergence | None) -> float:
    """Return the share of logits read from disk until the target, or in the whole run without a target, %."""
    if reached is not None and reached.teacher_reused is not None:
        return reached.teacher_reused
    return fmean(curves[REUSED].value) if REUSED in curves else 0.0


def _is_measured(curves: Mapping[str, Curve], reached: RunConvergence | None) -> bool:
    """Return whether the time of the logits is known, so that it can be subtracted from the run's time."""
    if TEACHER_SECONDS not in curves:
        return False
    return reached is None or reached.seconds is None or reached.teacher_seconds is not None


def compared_by(run: RunConvergence, basis: Timing) -> RunConvergence:
    """Return the run with the seconds that may be compared; unchanged if its times are not comparable."""
    if basis != "student" or run.seconds is None or run.teacher_seconds is None:
        return run
    seconds = max(0.0, run.seconds - run.teacher_seconds)
    gpus = 1.0 if run.gpu_seconds is None or not run.seconds else run.gpu_seconds / run.seconds
    return run.model_copy(
        update={"student_seconds": seconds, "student_gpu_seconds": None if run.gpu_seconds is None else seconds * gpus}
    )


def seconds_of(run: RunConvergence) -> float | None:
    """Return the seconds that are shown and compared."""
    return run.seconds if run.student_seconds is None else run.student_seconds


def gpu_seconds_of(run: RunConvergence) -> float | None:
    """Return the GPU-seconds that are shown and compared."""
    return run.gpu_seconds if run.student_gpu_seconds is None else run.student_gpu_seconds


def notes(basis: Timing, runs: Sequence[RunConvergence]) -> list[str]:
    """Return what a reader needs to know about the times."""
    shares = [run.teacher_reused for run in runs if run.teacher_reused is not None]
    if basis == "whole":
        if not shares or min(shares) < 50:
            return []
        return ["Times do not include computing the teacher's logits: every run read them from disk."]
    span = f"{min(shares, default=0.0):.0f} to {max(shares, default=0.0):.0f} % of them were read from disk"
    why = (
        f"the teacher's logits were computed in some runs and read from disk in others ({span}), which depends on the "
        "order of the runs and is not a property of a method"
    )
    if basis == "student":
        return [f"Times do not include the time of the teacher's logits: {why}."]
    return [
        f"Times are not comparable between methods: {why}. Older versions did not record the time of the logits: the "
        "method that was trained first looks slower than it is."
    ]
