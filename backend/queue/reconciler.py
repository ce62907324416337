"""The reconciler requeues runs whose lease has expired, marks silent workers offline and repeats lost nudges."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy import Connection, delete, func, or_, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from backend.db import Database, db_now, now
from backend.db.models import IdempotencyKey, Run, Worker
from backend.queue import quotas
from backend.queue.eligibility import eligible_for, online_capacities
from backend.queue.lanes import count_waiting, waiting_lanes
from backend.queue.leased import LEASED_STATES
from backend.queue.lifecycle import lock_runs, requeue_lost
from backend.queue.nudge import Nudger
from backend.settings import Settings

_log = structlog.get_logger(__name__)

# Heartbeats that a worker may miss before it is shown as offline; it keeps its runs until their leases expire.
_MISSED_HEARTBEATS = 3

# One would suffice if the broker did not deliver several to the same worker.
_NUDGES_PER_WORKER = 4

# Ordinary clock adjustments are smaller; a lease has more slack.
_JUMP_SECONDS = 5.0

_ACCEPTING = (Worker.state == "online") & ~Worker.draining
_SLOT_COUNTS = select(
    func.count().label("workers"),
    func.sum(Worker.slots).label("slots"),
    select(func.sum(Run.gpus))
    .where(
        or_(*(Run.state == state for state in LEASED_STATES)), Run.worker_id.in_(select(Worker.id).where(_ACCEPTING))
    )
    .scalar_subquery()
    .label("held"),
).where(_ACCEPTING)

LEASE_EXPIRED = "its worker fell silent and the lease ran out"
"""Reason of an attempt whose lease has expired."""


@dataclass(frozen=True)
class ReconcileResult:
    """Result of one pass.

    Attributes:
        requeued: Number of runs whose lease had expired.
        offline: Number of workers that have become silent.
        nudges: Number of nudges sent.
    """

    requeued: int
    offline: int
    nudges: int


class Reconciler:
    """Runs one pass every few seconds. Replicas of the backend may run it concurrently.

    Args:
        database: The database.
        nudger: Sends nudges.
        settings: The backend's settings.
        monotonic: The process's monotonic clock.
    """

    def __init__(
        self, database: Database, nudger: Nudger, settings: Settings, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._nudger = nudger
        self._settings = settings
        self._monotonic = monotonic
        self._started_at: float | None = None
        self._previous: tuple[datetime, float] | None = None

    def run_once(self) -> ReconcileResult:
        """Run one pass.

        No run is requeued before one lease has passed since the first pass, or since a jump of the clock. Workers could
        not renew leases while the backend was down, so a lease that expired then does not mean that its worker is lost.
        The same applies if the database's clock was set forward. If the clock was set back, stored times in the future
        would be valid for too long, and are reduced to the latest time that could be set now.
        """
        requeued = 0
        with self._database.read() as session:
            timestamp = now(session)
        monotonic_now = self._monotonic()
        jump = self._clock_jump(timestamp, monotonic_now)
        if jump:
            _log.warning("the database's clock jumped", seconds=round(jump, 1))
        if self._started_at is None or jump < 0:
            self._clamp_future_times()
        if self._started_at is None or jump > 0:
            self._started_at = monotonic_now
        if monotonic_now >= self._started_at + self._settings.lease_seconds:
            with self._database.write() as session:
                requeued = _requeue_expired(session, self._settings)
        # In a separate transaction: a heartbeat locks its worker before its runs, so that locking workers after runs
        # could deadlock with it.
        with self._database.write() as session:
            silent = timedelta(seconds=_MISSED_HEARTBEATS * self._settings.heartbeat_seconds)
            offline = _mark_offline(session, now(session) - silent)
            max_age = timedelta(hours=self._settings.idempotency_hours)
            session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < timestamp - max_age))
        self._nudger.prune()
        return ReconcileResult(requeued, offline, send_nudges(self._database, self._nudger))

    def _clock_jump(self, timestamp: datetime, monotonic_now: float) -> float:
        """Return by how many seconds the database's clock jumped since the previous pass; 0 if it did not."""
        previous, self._previous = self._previous, (timestamp, monotonic_now)
        if previous is None:
            return 0.0
        jump = (timestamp - previous[0]).total_seconds() - (monotonic_now - previous[1])
        return jump if abs(jump) > _JUMP_SECONDS else 0.0

    def _clamp_future_times(self) -> None:
        """Reduce times too far in the future: a clock that was later set back has written them."""
        settings = self._settings
        with self._database.write() as session:
            lease = now(session) + timedelta(seconds=settings.lease_seconds)
            for run in lock_runs(session, Run.state.in_(LEASED_STATES) & (Run.lease_expires_at > lease)):
                run.lease_expires_at = lease
        with self._database.write() as session:
            delay = now(session) + timedelta(seconds=settings.max_retry_delay_seconds)
            for run in lock_runs(session, (Run.state == "queued") & (Run.not_before > delay)):
                run.not_before = delay
        with self._database.write() as session:
            future_heartbeats = update(Worker).where(Worker.last_heartbeat > db_now()).values(last_heartbeat=db_now())
            session.execute(future_heartbeats.execution_options(synchronize_session=False))

    async def run_until(self, stop: asyncio.Event) -> None:
        """Run a pass every ``reconcile_seconds`` until ``stop`` is set. A pass that fails is logged.

        Stop it, do not cancel it: a pass runs in a thread, which would continue to use a closed database.
        """
        while not stop.is_set():
            try:
                result = await asyncio.to_thread(self.run_once)
                if result.requeued or result.offline:
                    _log.info("reconciled", requeued=result.requeued, offline=result.offline)
            except SQLAlchemyError as error:
                _log.error("reconciler cannot use the database", error=str(error))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), self._settings.reconcile_seconds)


def send_nudges(database: Database, nudger: Nudger) -> int:
    """Send one nudge for each eligible run for which an online worker has a free slot, up to a few per worker.

    A nudged worker claims runs for all its free slots, so more nudges would only accumulate in the broker.

    Returns:
        The number of nudges.
    """
    with database.read() as session:
        count = _wanted_nudges(session.connection())
    nudger.send(count)
    return count


def _wanted_nudges(connection: Connection) -> int:
    capacities = [capacity for capacity in online_capacities(connection) if not capacity.draining]
    if not capacities:
        return 0
    workers, slots, leased_gpus = connection.execute(_SLOT_COUNTS).one()
    free = (slots or 0) - (leased_gpus or 0)
    if free < 1:
        return 0
    limit = min(free, _NUDGES_PER_WORKER * workers)
    timestamp = now(connection)
    lanes = waiting_lanes(connection, or_(*map(eligible_for, capacities)), timestamp)
    state = quotas.without_locks(connection, lanes, timestamp)
    devices = {capacity.device for capacity in capacities}
    open_lanes = [lane for lane in lanes if any(state.admits(lane, device) for device in devices)]
    return count_waiting(connection, open_lanes, timestamp, limit)


def _requeue_expired(session: Session, settings: Settings) -> int:
    timestamp = now(session)
    expired = lock_runs(session, Run.state.in_(LEASED_STATES) & (Run.lease_expires_at < timestamp))
    requeue_lost(session, expired, settings, LEASE_EXPIRED, timestamp)
    return len(expired)


def _mark_offline(session: Session, silent_since: datetime) -> int:
    query = (
        update(Worker)
        .where(Worker.state == "online", Worker.last_heartbeat < silent_since)
        .values(state="offline")
        .returning(Worker.id)
    )
    return len(session.scalars(query).all())
