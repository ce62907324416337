"""Pausing and resuming a run or an experiment. Both are idempotent.

A waiting or queued run is ``paused`` at once. A running one is ``paused`` when its worker has returned it with a
checkpoint; until then it is ``running`` with ``pausing`` set, so that it may still succeed, fail, be cancelled or be
resumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from backend.db.models import Experiment, Run
from backend.errors import conflict
from backend.queue.archived import refuse_archived
from backend.queue.lifecycle import lock_experiment_runs, lock_run_and_teachers
from backend.queue.teacher_links import students_of
from backend.queue.teachers import enqueue, reactivate
from core.protocol.public import TERMINAL


def pause(session: Session, run_id: str) -> None:
    """Pause one run; a run that has ended or is being cancelled stays as it is.

    Raises:
        ApiError: 404 if there is no such run.
    """
    run, _ = lock_run_and_teachers(session, run_id)
    _pause(run)


def resume(session: Session, run_id: str, timestamp: datetime) -> None:
    """Resume one run and its teachers; a run that is not paused stays as it is.

    Raises:
        ApiError: 404 if there is no such run, 409 if it is archived.
    """
    run, teachers = lock_run_and_teachers(session, run_id)
    if run.state != "paused" and not run.pausing:
        return
    refuse_archived(session, run_id)
    for teacher in teachers:
        reactivate(session, teacher, timestamp)
    _resume(session, [run], timestamp)


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
            if not session.scalars(select(exists().where(students_of(run.id), continuing))).one():
                _pause(run)
                session.flush()


def resume_experiment(session: Session, experiment: Experiment, timestamp: datetime) -> None:
    """Resume the paused runs of an experiment.

    Raises:
        ApiError: 409 if it is archived.
    """
    if experiment.archived_at is not None:
        raise conflict(f"the experiment {experiment.name} is archived; unarchive it first")
    _resume(session, lock_experiment_runs(session, experiment.id), timestamp)


def _pause(run: Run) -> None:
    if run.state in ("waiting", "queued"):
        run.state, run.queued_at = "paused", None
    elif run.state == "running":
        run.pausing = True


def _resume(session: Session, runs: Sequence[Run], timestamp: datetime) -> None:
    paused = [run for run in runs if run.state == "paused"]
    for run in runs:
        run.pausing = False
    for run in paused:
        run.reason = ""
    enqueue(session, paused, timestamp)
