"""A worker's reports about a run: events of the training and its outcome. Reports of old attempts are refused."""

from __future__ import annotations

from datetime import datetime
from operator import attrgetter
from pathlib import PurePosixPath
from typing import Any, Protocol

from sqlalchemy import Connection, Table, and_, bindparam, select, update
from sqlalchemy.orm import Session

from backend.db import db_now, now
from backend.db.models import Attempt, Run, Worker
from backend.errors import ApiError, conflict, invalid, not_found
from backend.metrics import log_store, point_store
from backend.queue.claim import attempt_folder
from backend.queue.leased import LEASED_STATES
from backend.queue.lifecycle import close_attempt, end_run, lock_run, requeue, requeue_with_backoff
from backend.settings import Settings
from backend.tokens import Principal, refuse_other
from common.terminal import printable
from core.events import Checkpointed, Metrics, Record, Started
from core.protocol.public import ProblemField
from core.protocol.worker import EventBatch, Outcome

_RUNS: Table = Run.__table__  # type: ignore[assignment]
_ATTEMPTS: Table = Attempt.__table__  # type: ignore[assignment]
_WORKERS: Table = Worker.__table__  # type: ignore[assignment]
# Rows instead of objects: a training reports a few times a second, and a report needs neither spec nor environment.
_CURRENT_STATE = (
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
# The time is that of the database's clock, read in the same statement.
_UPDATE_RUN = update(_RUNS).where(_RUNS.c.id == bindparam("run")).values(reported_at=db_now())
_UPDATE_ATTEMPT = update(_ATTEMPTS).where(
    _ATTEMPTS.c.run_id == bindparam("run"), _ATTEMPTS.c.number == bindparam("attempt")
)


def ingest_events(connection: Connection, worker_id: str, run_id: str, batch: EventBatch, principal: Principal) -> int:
    """Store a batch of events.

    Records that were stored before are skipped. Records after a gap are not stored: the returned number shows the
    worker where to resume.

    Returns:
        The last sequence number stored for the attempt.

    Raises:
        ApiError: 404 if there is no such run, 403 if the worker registered with another token that is still in use, or
            409 if the attempt is no longer the run's current one.
    """
    key = {"run": run_id, "number": batch.attempt, "worker": worker_id}
    current = connection.execute(_CURRENT_STATE, key).one_or_none()
    if current is None:
        raise not_found("run", run_id)
    refuse_other(connection, current.token_id, principal)
    _require_current_attempt(current, batch.attempt if current.accepted_seq is not None else None, worker_id)
    new_records: list[Record] = []
    seq: int = current.accepted_seq
    for record in sorted(batch.records, key=attrgetter("seq")):
        if record.seq == seq + 1:
            new_records.append(record)
            seq = record.seq
    if not new_records:
        return seq
    run_changes: dict[str, Any] = {"checkpoint_step": current.checkpoint_step}
    attempt_changes: dict[str, Any] = {"accepted_seq": seq}
    for record in new_records:
        _collect_changes(run_changes, attempt_changes, record, attempt_folder(run_id, batch.attempt))
    run_changes["ingest"] = point_store.insert(connection, run_id, current.ingest, new_records)
    if any(isinstance(record.event, Started) for record in new_records):
        point_store.rewind(connection, run_id, run_changes["step"])
    log_store.insert(connection, run_id, batch.attempt, new_records)
    connection.execute(_UPDATE_ATTEMPT, {"run": run_id, "attempt": batch.attempt, **attempt_changes})
    connection.execute(_UPDATE_RUN, {"run": run_id, **run_changes})
    return seq


def record_outcome(session: Session, worker_id: str, run_id: str, outcome: Outcome, settings: Settings) -> None:
    """Record the end of an attempt. Idempotent.

    Raises:
        ApiError: 404 if there is no such run, 409 if the attempt is no longer the run's current one, or 422 if weights
            are missing or outside the attempt's folder.
    """
    run = lock_run(session, run_id)
    attempt = session.get(Attempt, (run_id, outcome.attempt))
    if attempt is not None and attempt.worker_id == worker_id and attempt.outcome == outcome.outcome:
        return
    _require_current_attempt(run, outcome.attempt if attempt is not None else None, worker_id)
    timestamp = now(session)
    reason = outcome.reason
    if outcome.outcome == "succeeded":
        _accept_weights(run, outcome)
    close_attempt(session, run, outcome.outcome, reason, timestamp)
    if outcome.outcome == "succeeded":
        run.step, run.epoch = run.total_steps or run.step, float(run.total_epochs)
        end_run(session, run, "succeeded", "", timestamp)
    elif outcome.outcome == "failed":
        run.log_tail = outcome.log_tail
        end_run(session, run, "cancelled" if run.state == "cancelling" else "failed", reason, timestamp)
    elif outcome.outcome == "cancelled":
        _end_cancelled(session, run, reason, timestamp)
    else:
        run.log_tail = outcome.log_tail
        if not outcome.fault and run.state == "running":
            requeue(run, reason, timestamp)
        else:
            requeue_with_backoff(session, run, settings, reason or "interrupted", timestamp, wait=True)


def _end_cancelled(session: Session, run: Run, reason: str, timestamp: datetime) -> None:
    if run.state == "cancelling":
        end_run(session, run, "cancelled", reason, timestamp)
        return
    # The run was needed again after it was cancelled and before the worker had stopped it.
    requeue(run, "", timestamp)


class _RunState(Protocol):
    """State of a run, as a row or an object."""

    id: Any
    state: Any
    worker_id: Any
    attempt: Any


def _require_current_attempt(run: _RunState, number: int | None, worker_id: str) -> None:
    """Refuse a report from an attempt that is not the run's current one on that worker.

    Args:
        run: The run.
        number: Number of the attempt; None if it does not exist.
        worker_id: The worker.

    Raises:
        ApiError: 409.
    """
    if run.state not in LEASED_STATES or run.worker_id != worker_id or run.attempt != number:
        raise conflict(
            f"this is no longer the current attempt of run {run.id}, which is {run.state}, attempt {run.attempt}"
        )


def _collect_changes(run: dict[str, Any], attempt: dict[str, Any], record: Record, folder: str) -> None:
    """Add a record's content to the changed columns of its run and its attempt."""
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
        # A resumed attempt repeats the journal up to its checkpoint; only a later checkpoint is new.
        run |= {"checkpoint_path": _path_in_folder(folder, event.path), "checkpoint_step": event.step, "faults": 0}


def _accept_weights(run: Run, outcome: Outcome) -> None:
    weights = outcome.weights
    if weights is None:
        raise invalid("a run that succeeded must have weights", ProblemField(path="weights", message="missing"))
    folder = attempt_folder(run.id, run.attempt) + "/"
    if not weights.path.startswith(folder):
        message = f"must be in {folder}"
        raise invalid(f"weights: {message}", ProblemField(path="weights.path", message=message))
    run.weights_path = _path_in_folder(folder, weights.path.removeprefix(folder))
    run.weights_sha256 = weights.sha256


def _path_in_folder(folder: str, relative: str) -> str:
    """Return a path in the attempt's folder.

    Raises:
        ApiError: 422 if the path is outside the folder.
    """
    path = PurePosixPath(relative)
    if not relative or path.is_absolute() or ".." in path.parts or printable(relative, lines=False) != relative:
        raise ApiError(422, f"{relative!r} is not a path in the attempt's folder")
    return str(PurePosixPath(folder) / path)
