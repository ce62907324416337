"""Eligibility of runs for workers by device, GPUs and labels: as SQL for the queue and as text for people."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import BindParameter, ColumnElement, Connection, Row, and_, func, or_, select

from backend.db.models import QueueLane, Run, Worker

NO_LABELS = ","


@dataclass(frozen=True)
class WorkerCapacity:
    """The capacity of a worker.

    Attributes:
        device: ``cpu`` or ``gpu``.
        gpus: All GPUs, free or occupied; 0 on a CPU worker.
        labels: The worker's labels.
        draining: Whether it currently accepts no new runs.
    """

    device: str
    gpus: int
    labels: frozenset[str]
    draining: bool = False

    @classmethod
    def of(cls, worker: Worker | Row[*tuple[Any, ...]]) -> WorkerCapacity:
        """Return the capacity of a worker's row."""
        return cls(worker.device, worker.gpus, frozenset(worker.labels), worker.draining)

    def can_run(self, device: str, gpus: int, labels: Collection[str]) -> bool:
        """Return whether the worker, once idle, can run a run with these requirements."""
        enough = gpus <= self.gpus if self.device == "gpu" else gpus == 1
        return device in ("any", self.device) and enough and self.labels.issuperset(labels)


def encode_labels(labels: Iterable[str]) -> str:
    """Return labels in the form of the column ``Run.labels``: sorted, with a comma before and after each."""
    return "".join(f",{label}" for label in sorted(set(labels))) + ","


def decode_labels(text: str) -> list[str]:
    """Return the labels of the column ``Run.labels``; the inverse of ``encode_labels``."""
    return [label for label in text.split(",") if label]


def eligible_for(capacity: WorkerCapacity) -> ColumnElement[bool]:
    """Return the condition for lanes whose runs such a worker can run: ``WorkerCapacity.can_run`` as SQL."""
    # Remove each of the worker's labels from the lane's; if a single comma is left, none is missing. Both databases
    # have replace(); neither has the other's list operators.
    missing: ColumnElement[str] = QueueLane.labels.expression
    for label in sorted(capacity.labels):
        missing = func.replace(missing, f",{label},", ",")
    labelled = QueueLane.labels == NO_LABELS
    if capacity.labels:
        labelled = or_(labelled, missing == NO_LABELS)
    enough = QueueLane.gpus <= capacity.gpus if capacity.device == "gpu" else QueueLane.gpus == 1
    return and_(or_(QueueLane.device == "any", QueueLane.device == capacity.device), enough, labelled)


def is_ready(timestamp: datetime | BindParameter[datetime]) -> ColumnElement[bool]:
    """Return the condition for queued runs that wait only for a worker."""
    return and_(Run.state == "queued", or_(Run.not_before.is_(None), Run.not_before <= timestamp))


_ONLINE_WORKERS = select(Worker.device, Worker.gpus, Worker.labels, Worker.draining).where(Worker.state == "online")


def online_capacities(connection: Connection) -> list[WorkerCapacity]:
    """Return the distinct capacities of the workers that are online."""
    return list(dict.fromkeys(map(WorkerCapacity.of, connection.execute(_ONLINE_WORKERS))))


class RunRequirements(Protocol):
    """The requirements of a run for its worker, as columns of the run's row."""

    @property
    def device(self) -> str: ...
    @property
    def gpus(self) -> int: ...
    @property
    def labels(self) -> str: ...


def explain_wait(run: RunRequirements, capacities: Sequence[WorkerCapacity]) -> str:
    """Return why no worker will claim a run, as text for people; empty if one will.

    Args:
        run: The run's requirements.
        capacities: Capacities of the workers that are online.
    """
    labels = decode_labels(run.labels)
    suitable = [capacity for capacity in capacities if capacity.can_run(run.device, run.gpus, labels)]
    if any(not capacity.draining for capacity in suitable):
        return ""
    if run.gpus > 1:
        kind = f"a worker with {run.gpus} GPUs"
    else:
        kind = {"gpu": "a GPU worker", "cpu": "a CPU worker"}.get(run.device, "a worker")
    label_text = f" labelled {', '.join(labels)}" if labels else ""
    return f"waits for {kind}{label_text}; " + ("all that are online are draining" if suitable else "none is online")
