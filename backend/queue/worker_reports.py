"""What a worker reports of a run: the events of its training, and how it ended. Only the current attempt is heard."""

from __future__ import annotations

from datetime import datetime
from operator import attrgetter
from pathlib import PurePosixPath
from typing import Any, Protocol

from sqlalchemy import Connection, Table, and_, bindparam, select, update
from sqlalchemy.orm import Session

from backend.db import db_now, now
from backend.db.models import Attempt, Run, Worker
from backend.db.prepared import Prepared
from backend.errors import ApiError, conflict, invalid, not_found
from backend.metrics import log_store, point_store
from backend.queue.claim import attempt_folder
from backend.queue.lifecycle import LEASED_STATES, close_attempt, end_run, lock_run, requeue, requeue_with_backoff
from backend.settings import Settings
from backend.tokens import Principal, refuse_other
from common.terminal import printable
from core.events import Checkpointed, Metrics, Record, Started
from core.protocol.public import ProblemField
from core.protocol.worker import EventBatch, Outcome

_RUNS: Table = Run.__table__  # type: ignore[assignment]
_ATTEMPTS: Table = Attempt.__table__  # type: ignore[assignment]
_WORKERS: Table = Worker.__table__  # type: ignore[assignment]
# Rows, not objects, and statements that are made once: a training posts a few times a second, and of its run it needs
# neither the spec nor the environment.
_STANDING = Prepared(
    select(
        *(_RUNS.c[name] for name in ("id", "state", "worker_id", "attempt", "ingest", "checkpoint_step")),
        _ATTEMPTS.c.accepted_seq,
        _WORKERS.c.token_id,
    )
    .outerjoin_from(_RUNS, _ATTEMPTS, and_(_ATTEMPTS.c.run_id == _RUNS.c.id, _ATTEMPTS.c.number == bindparam("number")))
    .outerjoin(_WORKERS, _WORKERS.c.id == bindparam("worker"))
    .where(_RUNS.c.id == bindparam("run"))
    .with_for_update(of=_RUNS)
)
# By the database's clock, within the same statement.
_REPORTED = Prepared(update(_RUNS).where(_RUNS.c.id == bindparam("run")).values(reported_at=db_now()))
_HEARD = Prepared(
    update(_ATTEMPTS).where(_ATTEMPTS.c.run_id == bindparam("run"), _ATTEMPTS.c.number == bindparam("attempt"))
)


def ingest_events(connection: Connection, worker_id: str, run_id: str, batch: EventBatch, principal: Principal) -> int:
    """Take in a batch; returns the last seq taken for the attempt.

    Records that were taken before are passed over. After a gap nothing is taken: the answer tells the worker from
    where to send again. Raises ApiError 404, 403 where the worker registered with another token, which is in use, or
    409 where the run is no longer this attempt's.
    """
    wanted = {"run": run_id, "number": batch.attempt, "worker": worker_id}
    found = _STANDING.rows(connection, wanted)
    if not found:
        raise not_found("run", run_id)
    (standing,) = found
    refuse_other(connection, standing.token_id, principal)
    _fence(standing, batch.attempt if standing.accepted_seq is not None else None, worker_id)
    fresh: list[Record] = []
    seq: int = standing.accepted_seq
    for record in sorted(batch.records, key=attrgetter("seq")):
        if record.seq == seq + 1:
            fresh.append(record)
            seq = record.seq
    if not fresh:
        return seq
    of_run: dict[str, Any] = {"checkpoint_step": standing.checkpoint_step}
    of_attempt: dict[str, Any] = {"accepted_seq": seq}
    for record in fresh:
        _apply(of_run, of_attempt, record, attempt_folder(run_id, batch.attempt))
    of_run["ingest"] = point_store.insert(connection, run_id, standing.ingest, fresh)
    if any(isinstance(record.event, Started) for record in fresh):
        point_store.rewind(connection, run_id, of_run["step"])
    log_store.insert(connection, run_id, batch.attempt, fresh)
    _HEARD.run(connection, {"run": run_id, "attempt": batch.attempt, **of_attempt})
    _REPORTED.run(connection, {"run": run_id, **of_run})
    return seq


def record_outcome(session: Session, worker_id: str, run_id: str, outcome: Outcome, settings: Settings) -> None:
    """The attempt has ended. The same again changes nothing.

    Raises ApiError 404, 409 where the run is no longer this attempt's, or 422 where weights are missing or misplaced.
    """
    run = lock_run(session, run_id)
    attempt = session.get(Attempt, (run_id, outcome.attempt))
    if attempt is not None and attempt.worker_id == worker_id and attempt.outcome == outcome.outcome:
        return
    _fence(run, outcome.attempt if attempt is not None else None, worker_id)
    moment = now(session)
    reason = outcome.reason
    if outcome.outcome == "succeeded":
        _accept_weights(run, outcome)
    close_attempt(session, run, outcome.outcome, reason, moment)
    if outcome.outcome == "succeeded":
        run.step, run.epoch = run.total_steps or run.step, float(run.total_epochs)
        end_run(session, run, "succeeded", "", moment)
    elif outcome.outcome == "failed":
        run.log_tail = outcome.log_tail
        end_run(session, run, "cancelled" if run.state == "cancelling" else "failed", reason, moment)
    elif outcome.outcome == "cancelled":
        _cancelled(session, run, reason, moment)
    else:
        run.log_tail = outcome.log_tail
        if not outcome.fault and run.state == "running":
            requeue(run, reason, moment)
        else:
            requeue_with_backoff(session, run, settings, reason or "interrupted", moment, wait=True)


def _cancelled(session: Session, run: Run, reason: str, moment: datetime) -> None:
    if run.state == "cancelling":
        end_run(session, run, "cancelled", reason, moment)
        return
    # It was cancelled and then, before the worker was done with it, needed again.
    requeue(run, "", moment)


class _Holder(Protocol):
    """A run, as a row or an object."""

    id: Any
    state: Any
    worker_id: Any
    attempt: Any


def _fence(run: _Holder, number: int | None, worker_id: str) -> None:
    """Raises ApiError 409 where that attempt (None: there is no such one) is not the run's, in that worker's hands."""
    if run.state not in LEASED_STATES or run.worker_id != worker_id or run.attempt != number:
        raise conflict(f"run {run.id} is no longer this attempt's: it is {run.state}, attempt {run.attempt}")


def _apply(run: dict[str, Any], attempt: dict[str, Any], record: Record, folder: str) -> None:
    """Enter what a record says into the columns of its run and its attempt that are to be changed."""
    event = record.event
    if isinstance(event, Metrics):
        run |= {"step": event.step, "epoch": event.epoch}
    elif isinstance(event, Started):
        attempt["device"] = event.device
        run |= {
            "total_steps": event.total_steps,
            "total_epochs": event.total_epochs,
            "train_size": event.train_size,
            "test_size": event.test_size,
            "parameters": event.parameters,
            "environment": event.environment,
            "step": event.start_step,
            "epoch": event.total_epochs * min(event.start_step / event.total_steps, 1.0),
        }
    elif isinstance(event, Checkpointed) and event.step > run["checkpoint_step"]:
        # A resumed attempt repeats the journal up to its checkpoint; only what goes beyond is a new one.
        run |= {"checkpoint_path": _inside(folder, event.path), "checkpoint_step": event.step, "faults": 0}


def _accept_weights(run: Run, outcome: Outcome) -> None:
    weights = outcome.weights
    if weights is None:
        raise invalid("a run that succeeded has weights", ProblemField(path="weights", message="missing"))
    folder = attempt_folder(run.id, run.attempt) + "/"
    if not weights.path.startswith(folder):
        message = f"must be in {folder}"
        raise invalid(f"weights: {message}", ProblemField(path="weights.path", message=message))
    run.weights_path = _inside(folder, weights.path.removeprefix(folder))
    run.weights_sha256 = weights.sha256


def _inside(folder: str, relative: str) -> str:
    """A path in the attempt's folder. Raises ApiError 422 for one that leads out of it."""
    path = PurePosixPath(relative)
    if not relative or path.is_absolute() or ".." in path.parts or printable(relative, lines=False) != relative:
        raise ApiError(422, f"{relative!r} is not a path in the attempt's folder")
    return str(PurePosixPath(folder) / path)
