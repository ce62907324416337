"""Pausing and resuming: of one run, and of a whole experiment. Both may be asked for again and again.

A run that waits or is queued is ``paused`` at once. One that trains is handed back by its worker with a checkpoint and
is ``paused`` then; until that it is ``running`` with ``pausing`` set, so that it may still succeed, fail, be cancelled,
or be wanted again.
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
    """Pause one run; nothing changes where it has ended or is being cancelled. Raises ApiError 404."""
    run, _ = lock_run_and_teacher(session, run_id)
    _pause(run)


def resume(session: Session, run_id: str, moment: datetime) -> None:
    """Let one run go on, and its teacher with it; nothing changes where it is not paused. Raises ApiError 404."""
    run, teacher = lock_run_and_teacher(session, run_id)
    if run.state != "paused" and not run.pausing:
        return
    if teacher is not None:
        reactivate(teacher, moment)
    _resume(run, teacher, moment)


def pause_experiment(session: Session, experiment_id: str) -> None:
    """Pause what an experiment has left, but a teacher only where no student of another experiment waits for it."""
    runs = lock_experiment_runs(session, experiment_id)
    for run in runs:
        if run.role == "student":
            _pause(run)
    session.flush()
    for run in runs:
        if run.role == "teacher":
            going_on = Run.state.not_in([*TERMINAL, "paused"]) & ~Run.pausing
            if not session.scalars(select(exists().where(Run.teacher_run_id == run.id, going_on))).one():
                _pause(run)


def resume_experiment(session: Session, experiment_id: str, moment: datetime) -> None:
    """Let what was paused of an experiment go on."""
    runs = lock_experiment_runs(session, experiment_id)
    for run in runs:
        teacher = session.get(Run, run.teacher_run_id) if run.teacher_run_id else None
        _resume(run, teacher, moment)


def _pause(run: Run) -> None:
    if run.state in ("waiting", "queued"):
        run.state, run.queued_at = "paused", None
    elif run.state == "running":
        run.pausing = True


def _resume(run: Run, teacher: Run | None, moment: datetime) -> None:
    run.pausing = False
    if run.state != "paused":
        return
    run.reason = ""
    if teacher is not None and teacher.state != "succeeded":
        run.state = "waiting"
    else:
        run.state, run.queued_at = "queued", moment
