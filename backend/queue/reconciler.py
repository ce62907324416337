"""Sets right what nobody reports: leases that ran out, workers that fell silent, nudges that were lost."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache

import structlog
from sqlalchemy import Connection, Integer, bindparam, delete, func, or_, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from backend.db import Database, UtcDateTime, db_now, now
from backend.db.models import IdempotencyKey, Run, Worker
from backend.db.prepared import Prepared
from backend.queue.eligibility import WorkerCapacity, eligible_for, is_ready, online_capacities
from backend.queue.lifecycle import LEASED_STATES, lock_runs, requeue_lost
from backend.queue.nudge import Nudger
from backend.settings import Settings

_log = structlog.get_logger(__name__)

# Heartbeats that a worker may miss before it is shown as offline; its runs stay its own until their leases end.
_MISSED_HEARTBEATS = 3

# One would do, but that the broker hands several to the same worker.
_NUDGES_EACH = 4

# A clock that is only being set right is moved by less than this; a lease has more room.
_JUMP_SECONDS = 5.0

_TAKING = (Worker.state == "online") & ~Worker.draining
_SLOTS = Prepared(
    select(
        func.count().label("workers"),
        func.sum(Worker.slots).label("slots"),
        select(func.sum(Run.gpus))
        .where(
            or_(*(Run.state == state for state in LEASED_STATES)), Run.worker_id.in_(select(Worker.id).where(_TAKING))
        )
        .scalar_subquery()
        .label("held"),
    ).where(_TAKING)
)

LEASE_EXPIRED = "its worker fell silent and the lease ran out"
"""Reason of an attempt that was taken away for it."""


@dataclass(frozen=True)
class ReconcileResult:
    """What one pass did.

    Attributes:
        requeued: runs whose lease had run out.
        offline: workers that have become silent.
        nudges: how many were sent.
    """

    requeued: int
    offline: int
    nudges: int


class Reconciler:
    """One pass every few seconds. Replicas may run it side by side."""

    def __init__(
        self, database: Database, nudger: Nudger, settings: Settings, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._nudger = nudger
        self._settings = settings
        self._monotonic = monotonic
        self._began: float | None = None
        self._last: tuple[datetime, float] | None = None

    def run_once(self) -> ReconcileResult:
        """One pass. No run is taken away before one lease has passed since the first, or since the clock has jumped.

        While the backend was down no worker could renew a lease, so leases that ran out then mean nothing; nor do
        those that ended because the database's clock was put forward. Where it was put back, what it said before
        would hold for too long, and is brought down to what could have been said now.
        """
        requeued = 0
        with self._database.read() as session:
            moment = now(session)
        beat = self._monotonic()
        jump = self._jump(moment, beat)
        if jump:
            _log.warning("the database's clock has jumped", seconds=round(jump, 1))
        if self._began is None or jump < 0:
            self._bring_down()
        if self._began is None or jump > 0:
            self._began = beat
        if beat >= self._began + self._settings.lease_seconds:
            with self._database.write() as session:
                requeued = _requeue_expired(session, self._settings)
        # Apart: a heartbeat locks its worker before its runs, so holding runs here while asking for workers could
        # leave each waiting for the other.
        with self._database.write() as session:
            silent = timedelta(seconds=_MISSED_HEARTBEATS * self._settings.heartbeat_seconds)
            offline = _mark_offline(session, now(session) - silent)
            kept = timedelta(hours=self._settings.idempotency_hours)
            session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < moment - kept))
        self._nudger.prune()
        return ReconcileResult(requeued, offline, send_nudges(self._database, self._nudger))

    def _jump(self, moment: datetime, beat: float) -> float:
        """Seconds that the database's clock has gone more than ours since the pass before; 0 for what is no jump."""
        before, self._last = self._last, (moment, beat)
        if before is None:
            return 0.0
        jump = (moment - before[0]).total_seconds() - (beat - before[1])
        return jump if abs(jump) > _JUMP_SECONDS else 0.0

    def _bring_down(self) -> None:
        """Moments further in the future than can be set now are of a clock that has been put back since."""
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
            late = update(Worker).where(Worker.last_heartbeat > db_now()).values(last_heartbeat=db_now())
            session.execute(late.execution_options(synchronize_session=False))

    async def run_until(self, stop: asyncio.Event) -> None:
        """A pass every ``reconcile_seconds``. One that fails is logged, and the next is tried.

        To be stopped, not cancelled: a pass runs in a thread, which would go on using a database that is closed.
        """
        while not stop.is_set():
            try:
                done = await asyncio.to_thread(self.run_once)
                if done.requeued or done.offline:
                    _log.info("reconciled", requeued=done.requeued, offline=done.offline)
            except SQLAlchemyError as error:
                _log.error("reconciler cannot use the database", error=str(error))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), self._settings.reconcile_seconds)


def send_nudges(database: Database, nudger: Nudger) -> int:
    """One nudge for each eligible run that a live worker has a free slot for, up to a few a worker; returns how many.

    No more than that: a worker that is nudged takes all that it has slots for, and where none listens, messages would
    pile up in the broker.
    """
    with database.read() as session:
        count = _wanted_nudges(session.connection())
    nudger.send(count)
    return count


def _wanted_nudges(connection: Connection) -> int:
    known = tuple(offer for offer in online_capacities(connection) if not offer.draining)
    if not known:
        return 0
    ((workers, slots, held),) = _SLOTS.rows(connection, {})
    free = (slots or 0) - (held or 0)
    if free < 1:
        return 0
    most = min(free, _NUDGES_EACH * workers)
    return len(_fitting(known).rows(connection, {"moment": now(connection), "most": most}))


@lru_cache(64)
def _fitting(known: tuple[WorkerCapacity, ...]) -> Prepared:
    """Runs that one of the workers known could take, ``most`` of them: the queue may be long."""
    moment, most = bindparam("moment", type_=UtcDateTime()), bindparam("most", type_=Integer())
    return Prepared(select(Run.id).where(is_ready(moment), or_(*map(eligible_for, known))).limit(most))


def _requeue_expired(session: Session, settings: Settings) -> int:
    moment = now(session)
    expired = lock_runs(session, Run.state.in_(LEASED_STATES) & (Run.lease_expires_at < moment))
    requeue_lost(session, expired, settings, LEASE_EXPIRED, moment)
    return len(expired)


def _mark_offline(session: Session, silent_since: datetime) -> int:
    query = (
        update(Worker)
        .where(Worker.state == "online", Worker.last_heartbeat < silent_since)
        .values(state="offline")
        .returning(Worker.id)
    )
    return len(session.scalars(query).all())
