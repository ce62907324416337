"""What runs cost: time, GPU-hours and energy, with the time of the teacher's outputs apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.comparisons import timing
from backend.comparisons.run_data import LatestPoint, Sample, StudentRun, latest, plain_device
from backend.db import chunked, models
from core.catalog.machine import CPU_ENERGY, GPU_ENERGY
from core.events import rank_count
from core.protocol.costs import CostValue, MethodCost

_TIMED_METRIC = "train/loss"
"""Every training reports it, also after its last step."""
_MEASURED = (timing.REUSED, timing.TEACHER_SECONDS, GPU_ENERGY, CPU_ENERGY)
_SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True)
class RunCost:
    """What one run cost. A value that was not measured is None.

    Attributes:
        seconds: Seconds of training with its evaluations, over all attempts.
        teacher_seconds: The part of them for the teacher's outputs; 0 if the run used none.
        uses_teacher: Whether the run used a teacher's outputs.
        gpus: Number of GPUs; None on a CPU.
        gpu_energy: Wh.
        cpu_energy: Wh.
    """

    seconds: float | None = None
    teacher_seconds: float | None = None
    uses_teacher: bool = False
    gpus: int | None = None
    gpu_energy: float | None = None
    cpu_energy: float | None = None

    @property
    def student_seconds(self) -> float | None:
        if self.seconds is None or self.teacher_seconds is None:
            return None
        return max(0.0, self.seconds - self.teacher_seconds)

    @property
    def gpu_hours(self) -> float | None:
        return None if self.seconds is None else self._gpu_hours(self.seconds)

    @property
    def teacher_gpu_hours(self) -> float | None:
        return self._gpu_hours(self.teacher_seconds) if self.uses_teacher and self.teacher_seconds is not None else None

    @property
    def teacher_gpu_energy(self) -> float | None:
        """Return the teacher's part of the energy by its share of the time."""
        if not self.uses_teacher or self.teacher_seconds is None or self.gpu_energy is None or not self.seconds:
            return None
        return self.gpu_energy * min(1.0, self.teacher_seconds / self.seconds)

    def _gpu_hours(self, seconds: float) -> float | None:
        return None if self.gpus is None else self.gpus * seconds / _SECONDS_PER_HOUR


def costs_of_students(session: Session, students: Iterable[StudentRun]) -> dict[str, RunCost]:
    """Return what each run that succeeded cost, by run id."""
    runs = {run.run_id: run for run in students if run.state == "succeeded" and not run.set_aside}
    seconds, values = _seconds(session, runs), latest(session, runs, _MEASURED)
    return {
        run_id: _cost(seconds.get(run_id), values.get(run_id, {}), run.gpus, "teacher_logits" in run.environment)
        for run_id, run in runs.items()
    }


def method_costs(session: Session, sample: Sample) -> list[MethodCost]:
    """Return the costs of the methods of a sample in their order, and after them those of the teachers' training."""
    costs = costs_of_students(session, sample.students)
    by_label = sample.by_label(costs)
    summaries = [summarize(label, [run.run_id for run in by_label[label].values()], costs) for label in sample.labels]
    teachers = _costs_of_teachers(session, [item.id for item in sample.experiments])
    if teachers:
        summaries.append(summarize("teacher", list(teachers), teachers).model_copy(update={"is_teacher": True}))
    return summaries


def summarize(label: str, run_ids: Sequence[str], costs: Mapping[str, RunCost]) -> MethodCost:
    """Return the means over the runs that succeeded.

    Args:
        label: The method.
        run_ids: Its runs.
        costs: The cost of every run that succeeded.
    """
    runs = [costs[run_id] for run_id in run_ids if run_id in costs]
    uses_teacher = any(run.uses_teacher for run in runs)
    return MethodCost(
        label=label,
        uses_teacher=uses_teacher,
        runs=len(runs),
        seconds=_mean(runs, lambda run: run.seconds),
        student_seconds=_mean(runs, lambda run: run.student_seconds),
        teacher_seconds=_mean(runs, lambda run: run.teacher_seconds) if uses_teacher else None,
        gpu_hours=_mean(runs, lambda run: run.gpu_hours),
        teacher_gpu_hours=_mean(runs, lambda run: run.teacher_gpu_hours),
        gpu_energy=_mean(runs, lambda run: run.gpu_energy),
        teacher_gpu_energy=_mean(runs, lambda run: run.teacher_gpu_energy),
        cpu_energy=_mean(runs, lambda run: run.cpu_energy),
    )


def _mean(runs: Sequence[RunCost], read: Callable[[RunCost], float | None]) -> CostValue | None:
    values = [value for run in runs if (value := read(run)) is not None]
    return CostValue(mean=math.fsum(values) / len(values), n=len(values)) if values else None


def _costs_of_teachers(session: Session, experiments: Sequence[str]) -> dict[str, RunCost]:
    """Return the cost of every teacher that was trained here; those whose weights were given have none."""
    run, link = models.Run, models.ExperimentRun
    linked = select(link.run_id).where(link.experiment_id.in_(experiments), link.trial.is_(False))
    query = select(run.id, run.environment).where(run.id.in_(linked), run.role == "teacher", run.state == "succeeded")
    environments = {row.id: row.environment or {} for row in session.execute(query)}
    seconds, values = _seconds(session, environments), latest(session, environments, _MEASURED)
    devices: dict[str, set[str]] = {run_id: set() for run_id in environments}
    for part in chunked(environments):
        attempts = select(models.Attempt.run_id, models.Attempt.device).where(models.Attempt.run_id.in_(part))
        for run_id, device in session.execute(attempts):
            if device:
                devices[run_id].add(plain_device(device))
    costs = {}
    for run_id in seconds:
        on_gpus = bool(devices[run_id]) and all(device.startswith("cuda") for device in devices[run_id])
        gpus = rank_count(environments[run_id]) if on_gpus else None
        is_taught = "teacher_logits" in environments[run_id]  # a teacher of a chain is a student itself
        costs[run_id] = _cost(seconds[run_id], values.get(run_id, {}), gpus, is_taught)
    return costs


def _cost(seconds: float | None, values: Mapping[str, LatestPoint], gpus: int | None, is_taught: bool) -> RunCost:
    def value(name: str) -> float | None:
        point = values.get(name)
        return point.value if point is not None and math.isfinite(point.value) else None

    uses_teacher = is_taught or timing.REUSED in values or timing.TEACHER_SECONDS in values
    return RunCost(
        seconds=seconds,
        teacher_seconds=value(timing.TEACHER_SECONDS) if uses_teacher else 0.0,
        uses_teacher=uses_teacher,
        gpus=gpus,
        gpu_energy=value(GPU_ENERGY),
        cpu_energy=value(CPU_ENERGY),
    )


def _seconds(session: Session, run_ids: Iterable[str]) -> dict[str, float]:
    """Return the seconds of training at the last report of each run; a run without a step has none."""
    newest, point = models.MetricLatest, models.MetricPoint
    name_id = select(models.MetricName.id).where(models.MetricName.name == _TIMED_METRIC).scalar_subquery()
    same = (point.run_id == newest.run_id) & (point.name_id == newest.name_id) & (point.step == newest.step)
    seconds: dict[str, float] = {}
    for part in chunked(run_ids):
        query = (
            select(newest.run_id, point.elapsed)
            .join(point, same)
            .where(newest.run_id.in_(part), newest.name_id == name_id, newest.step > 0)
        )
        seconds.update({run_id: elapsed for run_id, elapsed in session.execute(query) if math.isfinite(elapsed)})
    return seconds
