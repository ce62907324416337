"""What a worker reports of a run: the events of its training, and how it ended. Only the current attempt is heard."""

from __future__ import annotations

from datetime import datetime
from pathlib import PurePosixPath

from sqlalchemy.orm import Session

from backend import logs, metrics_store
from backend.claim import folder_of
from backend.db import db_now, now
from backend.db.models import Attempt, Run
from backend.errors import ApiError, conflict, invalid
from backend.lifecycle import HELD, close_attempt, end, enqueue, lock_one, put_back
from backend.settings import Settings
from backend.texts import clean
from core.events import Checkpointed, Log, Metrics, Record, Started
from core.wire.public import ProblemField
from core.wire.worker import EventBatch, Outcome


def take_events(session: Session, worker_id: str, run_id: str, batch: EventBatch) -> int:
    """Take in a batch; returns the last seq taken for the attempt.

    Records that were taken before are passed over. After a gap nothing is taken: the answer tells the worker from
    where to send again. Raises ApiError 404, or 409 where the run is no longer this attempt's.
    """
    run = lock_one(session, run_id)
    attempt = session.get(Attempt, (run_id, batch.attempt))
    _fence(run, attempt, worker_id)
    assert attempt is not None  # the fence has seen to it
    fresh: list[Record] = []
    seq = attempt.accepted_seq
    for record in sorted(batch.records, key=lambda record: record.seq):
        if record.seq == seq + 1:
            fresh.append(record)
            seq = record.seq
    if not fresh:
        return seq
    for record in fresh:
        _apply(run, attempt, record)
    metrics_store.insert(session, run, [record for record in fresh if isinstance(record.event, Metrics)])
    if any(isinstance(record.event, Started) for record in fresh):
        metrics_store.rewind(session, run)
    lines = [_clean_log(record) for record in fresh if isinstance(record.event, Log)]
    logs.insert(session, run, attempt.number, lines)
    attempt.accepted_seq = seq
    run.reported_at = db_now()  # by the database's clock, within the same statement
    return seq


def take_outcome(session: Session, worker_id: str, run_id: str, outcome: Outcome, settings: Settings) -> None:
    """The attempt has ended. The same again changes nothing.

    Raises ApiError 404, 409 where the run is no longer this attempt's, or 422 where weights are missing or misplaced.
    """
    run = lock_one(session, run_id)
    attempt = session.get(Attempt, (run_id, outcome.attempt))
    if attempt is not None and attempt.worker_id == worker_id and attempt.outcome == outcome.outcome:
        return
    _fence(run, attempt, worker_id)
    moment = now(session)
    reason = clean(outcome.reason)
    if outcome.outcome == "succeeded":
        _accept_weights(run, outcome)
    close_attempt(session, run, outcome.outcome, reason, moment)
    if outcome.outcome == "succeeded":
        run.step, run.epoch = run.total_steps or run.step, float(run.total_epochs)
        end(session, run, "succeeded", "", moment)
    elif outcome.outcome == "failed":
        run.log_tail = [clean(line) for line in outcome.log_tail]
        end(session, run, "cancelled" if run.state == "cancelling" else "failed", reason, moment)
    elif outcome.outcome == "cancelled":
        _cancelled(session, run, reason, moment)
    else:
        run.log_tail = [clean(line) for line in outcome.log_tail]
        if not outcome.fault and run.state == "running":
            enqueue(run, reason, moment)
        else:
            put_back(session, run, settings, reason or "interrupted", moment, wait=True)


def _cancelled(session: Session, run: Run, reason: str, moment: datetime) -> None:
    if run.state == "cancelling":
        end(session, run, "cancelled", reason, moment)
        return
    # It was cancelled and then, before the worker was done with it, needed again.
    enqueue(run, "", moment)


def _fence(run: Run, attempt: Attempt | None, worker_id: str) -> None:
    held = run.state in HELD and run.worker_id == worker_id
    if attempt is None or not held or run.attempt != attempt.number:
        raise conflict(f"run {run.id} is no longer this attempt's: it is {run.state}, attempt {run.attempt}")


def _apply(run: Run, attempt: Attempt, record: Record) -> None:
    event = record.event
    if isinstance(event, Started):
        run.total_steps, run.total_epochs = event.total_steps, event.total_epochs
        run.train_size, run.test_size, run.parameters = event.train_size, event.test_size, event.parameters
        run.environment = {clean(name): clean(value) for name, value in event.environment.items()}
        attempt.device = clean(event.device)
        run.step = event.start_step
        run.epoch = event.total_epochs * event.start_step / event.total_steps
    elif isinstance(event, Metrics):
        run.step, run.epoch = event.step, event.epoch
    elif isinstance(event, Checkpointed) and event.step > run.checkpoint_step:
        # A resumed attempt repeats the journal up to its checkpoint; only what goes beyond is a new one.
        run.checkpoint_path = _inside(folder_of(run.id, attempt.number), event.path)
        run.checkpoint_step = event.step
        run.faults = 0


def _accept_weights(run: Run, outcome: Outcome) -> None:
    weights = outcome.weights
    if weights is None or not weights.sha256:
        raise invalid("a run that succeeded has weights", ProblemField(path="weights", message="missing"))
    folder = folder_of(run.id, run.attempt) + "/"
    if not weights.path.startswith(folder):
        message = f"must be in {folder}"
        raise invalid(f"weights: {message}", ProblemField(path="weights.path", message=message))
    run.weights_path = _inside(folder, weights.path.removeprefix(folder))
    run.weights_sha256 = weights.sha256


def _inside(folder: str, relative: str) -> str:
    """A path in the attempt's folder. Raises ApiError 422 for one that leads out of it."""
    path = PurePosixPath(relative)
    if not relative or path.is_absolute() or ".." in path.parts or clean(relative) != relative:
        raise ApiError(422, f"{relative!r} is not a path in the attempt's folder")
    return str(PurePosixPath(folder) / path)


def _clean_log(record: Record) -> Record:
    assert isinstance(record.event, Log)
    message = clean(record.event.message)
    if message == record.event.message:
        return record
    return record.model_copy(update={"event": record.event.model_copy(update={"message": message})})
