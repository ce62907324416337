"""Estimates of the time of planned runs, from past runs of the same kind.

A run takes longer than its epochs: its process starts, reads the data and compiles, and measures at the end what is
measured once, such as robustness. This time does not grow with the epochs, so it is estimated apart.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.comparisons.run_data import plain_device
from backend.db.models import Attempt, MetricLatest, MetricName, MetricPoint, Run
from core.events import rank_count
from core.protocol.public import DeviceTime, Estimate
from core.specs import ExperimentSpec, RunSpec

_MAX_PAST_RUNS = 50  # past runs of a kind that are considered
_TIMED_METRIC = "train/loss"  # every training reports it, even after its last step


@dataclass(frozen=True)
class _PastRun:
    """A past run.

    Attributes:
        device: The kind of device on which it was trained.
        epoch_seconds: GPU-seconds per epoch; on a CPU seconds.
        other_seconds: GPU-seconds before the first epoch and after the last one; None if the run had several attempts,
            whose times overlap.
    """

    device: str
    epoch_seconds: float
    other_seconds: float | None


@dataclass(frozen=True)
class RunTimes:
    """Times of runs of a kind in seconds.

    Attributes:
        epoch: An epoch.
        other: Before the first epoch and after the last one together; None if unknown.
    """

    epoch: float
    other: float | None = None

    def of(self, epochs: float) -> float:
        """Return the time of a run."""
        return self.epoch * epochs + (self.other or 0.0)


def estimate(session: Session, spec: ExperimentSpec, planned: Sequence[RunSpec]) -> Estimate:
    """Estimate the time of planned runs from the median times of past runs of the same kind.

    Succeeded runs with the same data set, network, method and batch size are of the same kind. If they were trained on
    several kinds of devices, only the runs on the most frequent kind count.

    Args:
        session: A read transaction.
        spec: The experiment.
        planned: The runs that would be trained, without shared teachers.
    """
    devices: dict[str, DeviceTime] = {}
    past_by_kind: dict[str, list[_PastRun]] = {}
    without_past = 0
    for run in planned:
        kind = "\n".join(
            (run.dataset.model_dump_json(), run.model.model_dump_json(), run.method.full_name, _batch(run))
        )
        is_new_kind = kind not in past_by_kind
        if is_new_kind:
            past_by_kind[kind] = _on_most_used_device(_past_runs(session, run, spec.resources.device))
        if not past_by_kind[kind]:
            without_past += 1
            continue
        device = past_by_kind[kind][0].device
        seconds = _medians(past_by_kind[kind]).of(run.training.epochs)
        previous = devices.get(device, DeviceTime(device=device, seconds=0.0, runs=0, based_on=0))
        devices[device] = DeviceTime(
            device=device,
            seconds=previous.seconds + seconds,
            runs=previous.runs + 1,
            based_on=previous.based_on + (len(past_by_kind[kind]) if is_new_kind else 0),
        )
    return Estimate(times=sorted(devices.values(), key=lambda item: -item.seconds), unknown=without_past)


def _medians(past: Sequence[_PastRun]) -> RunTimes:
    other = [item.other_seconds for item in past if item.other_seconds is not None]
    return RunTimes(statistics.median(item.epoch_seconds for item in past), statistics.median(other) if other else None)


def past_times(session: Session, run: RunSpec, device: str, *, gpus: int) -> RunTimes | None:
    """Return the median times of past runs of the same kind; None if there are none.

    Args:
        session: A read transaction.
        run: The run.
        device: The requested device: any, cpu or gpu.
        gpus: Number of GPUs that train the run together.
    """
    past = _on_most_used_device(_past_runs(session, run, device))
    if not past:
        return None
    ranks = max(gpus, 1) if past[0].device.startswith("cuda") else 1
    times = _medians(past)
    return RunTimes(times.epoch / ranks, None if times.other is None else times.other / ranks)


def _batch(run: RunSpec) -> str:
    return str(run.training.batch_size)


def _past_runs(session: Session, planned_run: RunSpec, device: str) -> list[_PastRun]:
    """Return the newest succeeded runs of the same kind as ``planned_run`` whose training time is known."""
    newest = (Attempt.run_id == Run.id) & (Attempt.number == Run.attempt)
    latest = (MetricLatest.run_id == Run.id) & (
        MetricLatest.name_id == select(MetricName.id).where(MetricName.name == _TIMED_METRIC).scalar_subquery()
    )
    point = (
        (MetricPoint.run_id == MetricLatest.run_id)
        & (MetricPoint.name_id == MetricLatest.name_id)
        & (MetricPoint.step == MetricLatest.step)
    )
    query = (
        select(Run.spec, Run.environment, Run.total_steps, Run.total_epochs, Attempt, MetricPoint)
        .join(Attempt, newest)
        .join(MetricLatest, latest)
        .join(MetricPoint, point)
        .where(Run.state == "succeeded", Run.total_steps > 0, Run.total_epochs > 0, MetricPoint.step > 0)
        .where(
            Run.dataset == planned_run.dataset.name,
            Run.model == planned_run.model.name,
            Run.method == planned_run.method.full_name,
        )
        .where(Run.spec["training"]["batch_size"].as_integer() == planned_run.training.batch_size)
        .order_by(Run.id.desc())
        .limit(_MAX_PAST_RUNS)
    )
    if device != "any":
        on_gpu = Attempt.device.startswith("cuda")
        query = query.where(on_gpu if device == "gpu" else ~on_gpu)
    dataset, model = planned_run.dataset.model_dump(mode="json"), planned_run.model.model_dump(mode="json")
    return [
        _PastRun(
            plain_device(attempt.device),
            point.elapsed / point.step * steps / epochs * _ranks(environment, attempt.device),
            _other_seconds(attempt, point.elapsed, _ranks(environment, attempt.device)),
        )
        for spec, environment, steps, epochs, attempt, point in session.execute(query)
        if (spec["dataset"], spec["model"]) == (dataset, model) and 0 < point.elapsed < math.inf
    ]


def _other_seconds(attempt: Attempt, elapsed: float, ranks: int) -> float | None:
    """Return the time of an attempt outside of its epochs; None if an earlier attempt trained some of them."""
    if attempt.number > 1 or attempt.ended_at is None:
        return None
    return max(0.0, (attempt.ended_at - attempt.started_at).total_seconds() - elapsed) * ranks


def _ranks(environment: dict[str, str], device: str) -> int:
    """Return the number of GPUs that trained together; 1 on a CPU, because all processes share it."""
    return rank_count(environment) if device.startswith("cuda") else 1


def _on_most_used_device(past: Sequence[_PastRun]) -> list[_PastRun]:
    """Return the runs on the most frequent device."""
    if not past:
        return []
    device = statistics.mode(item.device for item in past)
    return [item for item in past if item.device == device]
