"""Pausing and resuming a run or an experiment. Both are idempotent.

A waiting or queued run is ``paused`` at once. A running one is ``paused`` when its worker has returned it with a
checkpoint; until then it is ``running`` with ``pausing`` set, so that it may still succeed, fail, be cancelled or be
resumed.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from backend.db.models import Run
from backend.queue.lifecycle import lock_experiment_runs, lock_run_and_teacher
from backend.queue.teachers import reactivate
from core.protocol.public import TERMINAL


def pause(session: Session, run_id: str) -> None:
    """Pause one run; a run that has ended or is being cancelled stays as it is.

    Raises:
        ApiError: 404 if there is no such run.
    """
    run, _ = lock_run_and_teacher(session, run_id)
    _pause(run)


def resume(session: Session, run_id: str, timestamp: datetime) -> None:
    """Resume one run and its teacher; a run that is not paused stays as it is.

    Raises:
        ApiError: 404 if there is no such run.
    """
    run, teacher = lock_run_and_teacher(session, run_id)
    if run.state != "paused" and not run.pausing:
        return
    if teacher is not None:
        reactivate(teacher, timestamp)
    _resume(run, teacher, timestamp)


def pause_experiment(session: Session, experiment_id: str) -> None:
    """Pause the unfinished runs of an experiment; a teacher only if no student of another experiment waits for it."""
    runs = lock_experiment_runs(session, experiment_id)
    for run in runs:
        if run.role == "student":
            _pause(run)
    session.flush()
    for run in runs:
        if run.role == "teacher":
            continuing = Run.state.not_in([*TERMINAL, "paused"]) & ~Run.pausing
            if not session.scalars(select(exists().where(Run.teacher_run_id == run.id, continuing))).one():
                _pause(run)


def resume_experiment(session: Session, experiment_id: str, timestamp: datetime) -> None:
    """Resume the paused runs of an experiment."""
    runs = lock_experiment_runs(session, experiment_id)
    for run in runs:
        teacher = session.get(Run, run.teacher_run_id) if run.teacher_run_id else None
        _resume(run, teacher, timestamp)


def _pause(run: Run) -> None:
    if run.state in ("waiting", "queued"):
        run.state, run.queued_at = "paused", None
    elif run.state == "running":
        run.pausing = True


def _resume(run: Run, teacher: Run | None, timestamp: datetime) -> None:
    run.pausing = False
    if run.state != "paused":
        return
    run.reason = ""
    if teacher is not None and teacher.state != "succeeded":
        run.state = "waiting"
    else:
        run.state, run.queued_at = "queued", timestamp
