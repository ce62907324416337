"""Quotas of projects: slots at once, GPU-hours of the last seven days, and bytes of stored files.

A run of a project whose quota is used up waits, and runs of other projects pass it. Training runs are never stopped for
a quota, and what they store is kept. The slots are counted under a lock in each claim, so that they are never
exceeded; GPU-hours and bytes, which change slowly, are read at most every ``_KEPT_SECONDS``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Pool, func, or_, select
from sqlalchemy.orm import Session

from backend.db.models import Attempt, Project, QueueLane, Run, SlotUsage, Upload
from backend.errors import conflict
from backend.people import rights
from backend.queue import usage
from backend.queue.lanes import TOTALS, WaitingLane
from backend.queue.leased import is_leased
from common.formatting import size_text

_KEPT_SECONDS = 30.0


@dataclass(frozen=True)
class Limits:
    """The limits of a project; None for no limit."""

    slots: int | None = None
    gpu_hours: float | None = None
    disk_bytes: int | None = None


@dataclass(frozen=True)
class Use:
    """What a project uses."""

    slots: int = 0
    gpu_hours: float = 0.0
    disk_bytes: int = 0


@dataclass(frozen=True)
class QuotaState:
    """The limits of the projects that have any, and what these use."""

    limits: Mapping[str, Limits] = field(default_factory=dict)
    use: Mapping[str, Use] = field(default_factory=dict)
    lanes: Mapping[int, str] = field(default_factory=dict)

    def admits(self, lane: WaitingLane, device: str) -> bool:
        """Return whether a worker of this device may claim a run of the lane now."""
        return lane.project not in self.limits or not _reasons(
            self.limits[lane.project], self.use[lane.project], lane.gpus, device
        )

    def reason(self, lane_id: int, device: str, gpus: int) -> str:
        """Return which quota a queued run waits for, as text for people; empty if none.

        Args:
            lane_id: The run's lane.
            device: The device that it requires: any, cpu or gpu.
            gpus: Slots that it takes.
        """
        project = self.lanes.get(lane_id)
        if project is None:
            return ""
        reasons = _reasons(self.limits[project], self.use[project], gpus, device)
        if reasons and not rights.sees(project):
            return "waits for a quota of a project that shares it"
        return "; ".join(f"waits for the quota of the project {project}: {reason}" for reason in reasons)


NO_QUOTAS = QuotaState()


def _reasons(limits: Limits, use: Use, gpus: int, device: str) -> list[str]:
    """Return the limits that keep a run from starting, as text for people.

    Args:
        limits: The project's limits.
        use: What the project uses.
        gpus: Slots that the run takes.
        device: ``cpu`` for a run that uses no GPU-hours.
    """
    reasons = []
    if limits.slots is not None and use.slots + gpus > limits.slots:
        needs = f", and the run needs {gpus}" if gpus > 1 else ""
        reasons.append(f"{use.slots} of {limits.slots} slots are in use{needs}")
    if limits.gpu_hours is not None and device != "cpu" and use.gpu_hours >= limits.gpu_hours:
        only = " (a CPU worker may take it)" if device == "any" else ""
        reasons.append(f"{use.gpu_hours:.1f} of {limits.gpu_hours:g} GPU-hours of seven days are used{only}")
    if limits.disk_bytes is not None and use.disk_bytes >= limits.disk_bytes:
        reasons.append(f"{size_text(use.disk_bytes)} of {size_text(limits.disk_bytes)} are stored")
    return reasons


def limits_of(connection: Connection, projects: Collection[str] | None = None) -> dict[str, Limits]:
    """Return the limits of the projects that have any.

    Args:
        connection: A transaction.
        projects: Names of the projects; None for all.
    """
    columns = (Project.slots_limit, Project.gpu_hours_limit, Project.disk_limit)
    query = select(Project.name, *columns).where(or_(*(column.is_not(None) for column in columns)))
    if projects is not None:
        query = query.where(Project.name.in_(projects))
    return {row[0]: Limits(*row[1:]) for row in connection.execute(query)}


def for_claim(connection: Connection, lanes: Sequence[WaitingLane], timestamp: datetime, device: str) -> QuotaState:
    """Return the quotas of the projects of these lanes, and let no other claim take slots of them meanwhile.

    The rows of projects with a limit of slots stay locked until the end of the transaction, in the order of their
    names. A claim that waited for another one then counts the slot that the other took. A project whose quota is used
    up gives no run to this claim, so its row is not locked: claims of other projects do not wait for each other there.

    Args:
        connection: The claim's transaction.
        lanes: Lanes with runs that the worker could claim.
        timestamp: The database's time.
        device: The worker's device.
    """
    seen = without_locks(connection, lanes, timestamp)
    with_free_slots = {lane.project for lane in lanes if lane.project in seen.limits and seen.admits(lane, device)}
    locked = sorted(name for name in with_free_slots if seen.limits[name].slots is not None)
    if not locked:
        return seen
    rows = select(Project.name).where(Project.name.in_(locked)).order_by(Project.name)
    connection.execute(rows.with_for_update(key_share=True)).all()
    limits = {name: seen.limits[name] for name in locked} | limits_of(connection, locked)
    return QuotaState({**seen.limits, **limits}, {**seen.use, **_use(connection, limits, timestamp)})


def without_locks(connection: Connection, lanes: Iterable[WaitingLane], timestamp: datetime) -> QuotaState:
    """Like ``for_claim``, for counts: other claims may take slots meanwhile."""
    limits = limits_of(connection, {lane.project for lane in lanes})
    return QuotaState(limits, _use(connection, limits, timestamp)) if limits else NO_QUOTAS


def state(connection: Connection, timestamp: datetime) -> QuotaState:
    """Return the quotas of all projects that have any, for texts about waiting runs."""
    limits = limits_of(connection)
    if not limits:
        return NO_QUOTAS
    lanes = select(QueueLane.id, QueueLane.project).where(QueueLane.project.in_(limits))
    names: dict[int, str] = dict(connection.execute(lanes).all())
    return QuotaState(limits, _use(connection, limits, timestamp), names)


def use_of(connection: Connection, projects: Sequence[str], timestamp: datetime) -> dict[str, Use]:
    """Return what these projects use, counted now."""
    slots = slots_of(connection, projects)
    hours, stored = gpu_hours_of(connection, projects, timestamp), bytes_of(connection, projects)
    return {name: Use(slots.get(name, 0), hours.get(name, 0.0), stored.get(name, 0)) for name in projects}


def _use(connection: Connection, limits: Mapping[str, Limits], timestamp: datetime) -> dict[str, Use]:
    """Return what projects use of their limits; GPU-hours and bytes of at most ``_KEPT_SECONDS`` ago."""
    slots = slots_of(connection, [name for name, limit in limits.items() if limit.slots is not None])
    slow = [name for name, limit in limits.items() if (limit.gpu_hours, limit.disk_bytes) != (None, None)]
    kept = _slow_use(connection, slow, timestamp)
    unused = Use()
    return {
        name: Use(slots.get(name, 0), kept.get(name, unused).gpu_hours, kept.get(name, unused).disk_bytes)
        for name in limits
    }


def slots_of(connection: Connection, projects: Sequence[str]) -> dict[str, int]:
    """Return how many slots the runs of projects take now."""
    if not projects:
        return {}
    query = (
        select(QueueLane.project, func.sum(Run.gpus))
        .join(Run, Run.lane_id == QueueLane.id)
        .where(is_leased(), QueueLane.project.in_(projects))
        .group_by(QueueLane.project)
    )
    return {project: int(slots) for project, slots in connection.execute(query, execution_options=TOTALS)}


def gpu_hours_of(connection: Connection, projects: Sequence[str], timestamp: datetime) -> dict[str, float]:
    """Return the GPU-hours of projects since ``WINDOW`` before now: those of attempts on GPU workers, also running."""
    query = (
        select(SlotUsage.project, usage.slot_seconds(timestamp))
        .where(usage.in_window(timestamp))
        .where(SlotUsage.project.in_(projects), SlotUsage.device == "gpu")
        .group_by(SlotUsage.project)
    )
    rows = connection.execute(query, execution_options=TOTALS)
    return {project: max(float(total), 0.0) / 3600.0 for project, total in rows}


def bytes_of(connection: Connection, projects: Sequence[str]) -> dict[str, int]:
    """Return the bytes that are stored for projects: files of attempts, from their end on, and uploads."""
    attempts = (
        select(QueueLane.project, func.sum(Attempt.stored_bytes))
        .select_from(Attempt)
        .join(Run, Run.id == Attempt.run_id)
        .join(QueueLane, QueueLane.id == Run.lane_id)
        .where(QueueLane.project.in_(projects), Attempt.stored_bytes.is_not(None))
        .group_by(QueueLane.project)
    )
    uploads = select(Upload.project, func.sum(Upload.size)).where(Upload.project.in_(projects)).group_by(Upload.project)
    totals: dict[str, int] = {}
    for query in (attempts, uploads):
        for project, size in connection.execute(query, execution_options=TOTALS):
            totals[project] = totals.get(project, 0) + int(size or 0)
    return totals


_lock = threading.Lock()
# By the pool, which an engine shares with those that see some projects only; there is one of these for each request.
_kept: WeakKeyDictionary[Pool, dict[str, tuple[float, Use]]] = WeakKeyDictionary()


def _slow_use(connection: Connection, projects: Sequence[str], timestamp: datetime) -> dict[str, Use]:
    """Return the GPU-hours and bytes of projects, of at most ``_KEPT_SECONDS`` ago."""
    oldest = time.monotonic() - _KEPT_SECONDS
    with _lock:
        kept = {name: use for name, (at, use) in _kept.get(connection.engine.pool, {}).items() if at > oldest}
    missing = [name for name in projects if name not in kept]
    if missing:
        hours, stored = gpu_hours_of(connection, missing, timestamp), bytes_of(connection, missing)
        read = {name: Use(0, hours.get(name, 0.0), stored.get(name, 0)) for name in missing}
        with _lock:
            entries = _kept.setdefault(connection.engine.pool, {})
            entries.update({name: (time.monotonic(), use) for name, use in read.items()})
        kept |= read
    return kept


def refuse_full_disk(session: Session, project: str, size: int = 0) -> None:
    """Refuse a submission or an upload to a project whose quota of disk space is used up.

    Args:
        session: A transaction.
        project: Name of the project.
        size: Bytes that would be stored now.

    Raises:
        ApiError: 409.
    """
    connection = session.connection()
    limit = limits_of(connection, [project]).get(project, Limits()).disk_bytes
    if limit is None:
        return
    stored = bytes_of(connection, [project]).get(project, 0)
    if stored >= limit or stored + size > limit:
        more = f", and this needs {size_text(size)} more" if size and stored < limit else ""
        raise conflict(
            f"the project {project} stores {size_text(stored)} of its quota of {size_text(limit)}{more}; delete "
            "experiments or uploads of it, or ask an admin of the lab for a larger quota"
        )
