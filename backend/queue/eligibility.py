"""Which worker may take which run: devices, GPUs, labels. One rule, as SQL for the queue and in words for people."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import BindParameter, ColumnElement, Connection, Row, and_, func, or_, select

from backend.db.models import Run, Worker
from backend.db.prepared import Prepared

NO_LABELS = ","


@dataclass(frozen=True)
class WorkerCapacity:
    """What a worker has for runs.

    Attributes:
        device: cpu or gpu.
        gpus: all of them, free or not; 0 on a CPU worker.
        labels: what it is labelled with.
        draining: it takes no new runs for now.
    """

    device: str
    gpus: int
    labels: frozenset[str]
    draining: bool = False

    @classmethod
    def of(cls, worker: Worker | Row[*tuple[Any, ...]]) -> WorkerCapacity:
        return cls(worker.device, worker.gpus, frozenset(worker.labels), worker.draining)

    def can_run(self, device: str, gpus: int, labels: Collection[str]) -> bool:
        """Whether it could ever take a run with these needs, once it has nothing else to do."""
        enough = gpus <= self.gpus if self.device == "gpu" else gpus == 1
        return device in ("any", self.device) and enough and self.labels.issuperset(labels)


def encode_labels(labels: Iterable[str]) -> str:
    """Labels as ``Run.labels`` holds them: sorted, a comma before and behind each."""
    return "".join(f",{label}" for label in sorted(set(labels))) + ","


def decode_labels(text: str) -> list[str]:
    """The inverse of ``as_column``."""
    return [label for label in text.split(",") if label]


def eligible_for(offer: WorkerCapacity) -> ColumnElement[bool]:
    """Runs that such a worker could ever take: ``Offer.could_take`` as SQL."""
    # Each of the worker's labels is taken out of the run's; where a comma is left, none is missing. Both databases
    # know replace(); neither knows the other's operators on lists.
    missing: ColumnElement[str] = Run.labels.expression
    for label in sorted(offer.labels):
        missing = func.replace(missing, f",{label},", ",")
    labelled = Run.labels == NO_LABELS
    if offer.labels:
        labelled = or_(labelled, missing == NO_LABELS)
    enough = Run.gpus <= offer.gpus if offer.device == "gpu" else Run.gpus == 1
    return and_(or_(Run.device == "any", Run.device == offer.device), enough, labelled)


def is_ready(moment: datetime | BindParameter[datetime]) -> ColumnElement[bool]:
    """Runs that wait for nothing but a worker."""
    return and_(Run.state == "queued", or_(Run.not_before.is_(None), Run.not_before <= moment))


_ONLINE = Prepared(select(Worker.device, Worker.gpus, Worker.labels, Worker.draining).where(Worker.state == "online"))


def online_capacities(connection: Connection) -> list[WorkerCapacity]:
    """Of the workers that live, each kind once."""
    return list(dict.fromkeys(map(WorkerCapacity.of, _ONLINE.rows(connection, {}))))


class Needs(Protocol):
    """What a run needs of its worker, as the columns of its row have it."""

    @property
    def device(self) -> str: ...
    @property
    def gpus(self) -> int: ...
    @property
    def labels(self) -> str: ...


def explain_wait(run: Needs, known: Sequence[WorkerCapacity]) -> str:
    """Why no worker of those known will take a run, in words; empty where one will."""
    labels = decode_labels(run.labels)
    suitable = [offer for offer in known if offer.can_run(run.device, run.gpus, labels)]
    if any(not offer.draining for offer in suitable):
        return ""
    if run.gpus > 1:
        kind = f"a worker with {run.gpus} GPUs"
    else:
        kind = {"gpu": "a GPU worker", "cpu": "a CPU worker"}.get(run.device, "a worker")
    named = f" labelled {', '.join(labels)}" if labels else ""
    return f"waits for {kind}{named}; " + ("all that are online are draining" if suitable else "none is online")
