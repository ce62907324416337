"""What planned runs would cost, judged by past runs of the same kind."""

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

_NEWEST = 50  # past runs of a kind that are looked at
_TIMED = "train/loss"  # every training reports it, also after its last step


@dataclass(frozen=True)
class _Past:
    """A past run: GPU-seconds (seconds, on a CPU) that an epoch took, and where."""

    device: str
    epoch_seconds: float


def estimate(session: Session, spec: ExperimentSpec, planned: Sequence[RunSpec]) -> Estimate:
    """Time that these runs would take, from the median seconds a step of past runs of the same kind.

    Of the same kind are succeeded runs of the same data set, network and method with the same batch size. Where they
    ran on several devices, those of the device that most of them ran on count.

    Args:
        planned: what would be trained; of shared teachers nothing.
    """
    devices: dict[str, DeviceTime] = {}
    known: dict[str, list[_Past]] = {}
    unknown = 0
    for run in planned:
        kind = "\n".join((run.dataset.model_dump_json(), run.model.model_dump_json(), run.method.name, _batch(run)))
        new = kind not in known
        if new:
            known[kind] = _most(_past(session, run, spec.resources.device))
        if not known[kind]:
            unknown += 1
            continue
        device = known[kind][0].device
        seconds = statistics.median(past.epoch_seconds for past in known[kind]) * run.training.epochs
        before = devices.get(device, DeviceTime(device=device, seconds=0.0, runs=0, based_on=0))
        devices[device] = DeviceTime(
            device=device,
            seconds=before.seconds + seconds,
            runs=before.runs + 1,
            based_on=before.based_on + (len(known[kind]) if new else 0),
        )
    return Estimate(times=sorted(devices.values(), key=lambda item: -item.seconds), unknown=unknown)


def _batch(run: RunSpec) -> str:
    return str(run.training.batch_size)


def _past(session: Session, like: RunSpec, device: str) -> list[_Past]:
    """The newest succeeded runs of this kind that have a time."""
    newest = (Attempt.run_id == Run.id) & (Attempt.number == Run.attempt)
    latest = (MetricLatest.run_id == Run.id) & (
        MetricLatest.name_id == select(MetricName.id).where(MetricName.name == _TIMED).scalar_subquery()
    )
    point = (
        (MetricPoint.run_id == MetricLatest.run_id)
        & (MetricPoint.name_id == MetricLatest.name_id)
        & (MetricPoint.step == MetricLatest.step)
    )
    query = (
        select(Run.spec, Run.environment, Run.total_steps, Run.total_epochs, Attempt.device, MetricPoint)
        .join(Attempt, newest)
        .join(MetricLatest, latest)
        .join(MetricPoint, point)
        .where(Run.state == "succeeded", Run.total_steps > 0, Run.total_epochs > 0, MetricPoint.step > 0)
        .where(Run.dataset == like.dataset.name, Run.model == like.model.name, Run.method == like.method.name)
        .where(Run.spec["training"]["batch_size"].as_integer() == like.training.batch_size)
        .order_by(Run.id.desc())
        .limit(_NEWEST)
    )
    if device != "any":
        on_gpu = Attempt.device.startswith("cuda")
        query = query.where(on_gpu if device == "gpu" else ~on_gpu)
    dataset, model = like.dataset.model_dump(mode="json"), like.model.model_dump(mode="json")
    return [
        _Past(
            plain_device(where),
            point.elapsed / point.step * steps / epochs * _ranks(environment, where),
        )
        for spec, environment, steps, epochs, where, point in session.execute(query)
        if (spec["dataset"], spec["model"]) == (dataset, model) and 0 < point.elapsed < math.inf
    ]


def _ranks(environment: dict[str, str], device: str) -> int:
    """GPUs that trained together; processes on a CPU share it."""
    return rank_count(environment) if device.startswith("cuda") else 1


def _most(past: Sequence[_Past]) -> list[_Past]:
    """Those of the device that most of them ran on."""
    if not past:
        return []
    device = statistics.mode(item.device for item in past)
    return [item for item in past if item.device == device]
