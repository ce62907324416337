"""Decides whether the times of runs may be compared, and which part of the times.

One run of a seed computes the teacher's logits and stores them; the others read them from disk. Which run computes them
depends on the order of the trainings (by default it is a run of the spec's first method), so total times would show the
baseline slower than it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from backend.comparisons.run_data import MetricCurve, StudentRun
from core.protocol.comparisons import RunConvergence, Timing

REUSED, TEACHER_SECONDS = "speed/teacher_reused", "speed/teacher_seconds"
_TOLERANCE = 5.0
"""Percentage points by which the shares of cached logits may differ: a few batches are always computed as a check."""


def with_teacher_time(
    reached: RunConvergence, spent: MetricCurve | None, reused: MetricCurve | None, step: int | None
) -> RunConvergence:
    """Return ``reached`` with the time of the teacher's logits until the target, and the share read from disk.

    Args:
        reached: Convergence of the run.
        spent: Seconds spent on the teacher's logits since the run began, by step.
        reused: Share of each epoch's logits that were read from disk, %.
        step: Step at which the target was reached; None if it was not reached.
    """
    shares = (
        [
            value
            for reused_step, value in zip(reused.step, reused.value, strict=True)
            if step is None or reused_step <= step
        ]
        if reused
        else []
    )
    seconds = spent.at_step(step) if spent and step is not None else None
    changes = {"teacher_reused": fmean(shares) if shares else None, "teacher_seconds": seconds}
    return reached.model_copy(update=changes)


def basis_of(runs: Iterable[tuple[StudentRun, Mapping[str, MetricCurve], RunConvergence | None]]) -> Timing:
    """Return which part of the times of these runs may be compared; the same for all methods.

    Args:
        runs: Each run with its curves, and with its convergence, or None if it has no target. Curves over time are
            drawn whether or not a target was reached, so a run without a target counts with its full length.
    """
    with_teacher = [item for item in runs if _has_teacher(item[0], item[1])]
    shares = [_reused_share(curves, reached) for _, curves, reached in with_teacher]
    if not shares or max(shares) - min(shares) <= _TOLERANCE:
        return "whole"
    return "student" if all(_is_measured(curves, reached) for _, curves, reached in with_teacher) else "unlike"


def _has_teacher(student: StudentRun, curves: Mapping[str, MetricCurve]) -> bool:
    """Return whether the run used a teacher's logits; every such run records where they came from."""
    return REUSED in curves or TEACHER_SECONDS in curves or "teacher_logits" in student.environment


def _reused_share(curves: Mapping[str, MetricCurve], reached: RunConvergence | None) -> float:
    """Return the share of logits read from disk until the target, %; without a target, in the complete run."""
    if reached is not None and reached.teacher_reused is not None:
        return reached.teacher_reused
    return fmean(curves[REUSED].value) if REUSED in curves else 0.0


def _is_measured(curves: Mapping[str, MetricCurve], reached: RunConvergence | None) -> bool:
    """Return whether the time of the logits is known, so that it can be subtracted from the run's time."""
    if TEACHER_SECONDS not in curves:
        return False
    return reached is None or reached.seconds is None or reached.teacher_seconds is not None


def with_comparable_times(run: RunConvergence, basis: Timing) -> RunConvergence:
    """Return the run with the seconds that may be compared between methods; unchanged if there are none."""
    if basis != "student" or run.seconds is None or run.teacher_seconds is None:
        return run
    seconds = max(0.0, run.seconds - run.teacher_seconds)
    gpus = 1.0 if run.gpu_seconds is None or not run.seconds else run.gpu_seconds / run.seconds
    return run.model_copy(
        update={"student_seconds": seconds, "student_gpu_seconds": None if run.gpu_seconds is None else seconds * gpus}
    )


def seconds_of(run: RunConvergence) -> float | None:
    """Return the seconds of a run, without the teacher's part if that was recorded."""
    return run.seconds if run.student_seconds is None else run.student_seconds


def gpu_seconds_of(run: RunConvergence) -> float | None:
    """Return the GPU-seconds of a run, without the teacher's part if that was recorded."""
    return run.gpu_seconds if run.student_gpu_seconds is None else run.student_gpu_seconds


def notes(basis: Timing, runs: Sequence[RunConvergence]) -> list[str]:
    """Return notes about which part of the times is compared, and why."""
    shares = [run.teacher_reused for run in runs if run.teacher_reused is not None]
    if basis == "whole":
        if not shares or min(shares) < 50:
            return []
        return ["Times do not include computing the teacher's logits: every run read them from disk."]
    span = f"{min(shares, default=0.0):.0f} to {max(shares, default=0.0):.0f} % of them were read from disk"
    reason = (
        f"the teacher's logits were computed in some runs and read from disk in others ({span}), which depends on the "
        "order of the runs and is not a property of a method"
    )
    if basis == "student":
        return [f"Times do not include the time of the teacher's logits: {reason}."]
    return [
        f"Times are not comparable between methods: {reason}. Older versions did not record the time of the logits: "
        "the method that was trained first looks slower than it is."
    ]
