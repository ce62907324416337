"""A run's states and how it moves between them. Every function wants the run's row locked by the caller.

``waiting`` (for its teacher) → ``queued`` → ``running`` → ``cancelling`` → ``succeeded`` | ``failed`` | ``cancelled``;
a lost or interrupted run goes back to ``queued``. Teachers are locked before students, and runs of one role in the
order of their ids, so that no two transactions wait for each other.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, exists, select, update
from sqlalchemy.orm import Session, defer

from backend.db.models import Attempt, ExperimentRun, Run
from backend.errors import conflict, not_found
from backend.planning import live_teacher
from backend.settings import Settings
from core.wire.public import TERMINAL

_UNSTARTED = frozenset({"waiting", "queued", "paused"})
HELD = ("running", "cancelling")
"""States in which a worker has the run."""


def lock(session: Session, which: ColumnElement[bool]) -> list[Run]:
    """The runs that the condition selects, locked, teachers first, as they are now."""
    query = (
        select(Run)
        .where(which)
        .order_by(Run.role.desc(), Run.id)
        .options(defer(Run.spec), defer(Run.environment), defer(Run.log_tail))
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return list(session.scalars(query))


def lock_one(session: Session, run_id: str) -> Run:
    """One run, locked. Raises ApiError 404."""
    found = lock(session, Run.id == run_id)
    if not found:
        raise not_found("run", run_id)
    return found[0]


def cancel(session: Session, run: Run, moment: datetime) -> None:
    """Cancel a run that has not ended. One that a worker has is ``cancelling`` until the worker says it is gone."""
    if run.state in _UNSTARTED:
        end(session, run, "cancelled", "", moment)
    elif run.state == "running":
        run.state = "cancelling"


def cancel_experiment(session: Session, experiment_id: str, moment: datetime) -> None:
    """Cancel what an experiment has left, but a teacher only where no student of another experiment needs it."""
    in_experiment = Run.id.in_(select(ExperimentRun.run_id).where(ExperimentRun.experiment_id == experiment_id))
    runs = lock(session, in_experiment & Run.state.not_in(TERMINAL))
    for run in runs:
        if run.role == "student":
            cancel(session, run, moment)
    session.flush()
    for run in runs:
        needed = select(exists().where(Run.teacher_run_id == run.id, Run.state.not_in(TERMINAL)))
        if run.role == "teacher" and not session.scalars(needed).one():
            cancel(session, run, moment)


def retry(session: Session, run_id: str) -> Run:
    """Put a failed or cancelled run back in the queue; nothing changes where it is there or running already.

    A student whose teacher failed or was cancelled revives the teacher, and with it every student that failed for it.
    Raises ApiError 404, or 409 where the run succeeded or is still being cancelled.
    """
    found = session.get(Run, run_id)
    if found is None:
        raise not_found("run", run_id)
    teacher = session.get(Run, found.teacher_run_id) if found.teacher_run_id else None
    if teacher is not None and teacher.state in ("failed", "cancelled"):
        # Meanwhile the same teacher may have been asked for again, under another id.
        teacher = live_teacher(session, teacher.fingerprint) or teacher
    wanted = [run_id, teacher.id] if teacher else [run_id]
    run = next(row for row in lock(session, Run.id.in_(wanted)) if row.id == run_id)
    if run.state == "succeeded":
        raise conflict("this run has succeeded; submit an experiment to train it again")
    if run.state == "cancelling":
        raise conflict("this run is still being cancelled; retry it when it is")
    if run.state not in TERMINAL:
        return run
    if run.role == "teacher":
        _revive_teacher(session, run)
        return run
    _reset(run)
    if teacher is not None:
        run.teacher_run_id = teacher.id
        if teacher.state in ("failed", "cancelled"):
            _revive_teacher(session, teacher)
        elif teacher.state == "cancelling":
            teacher.state = "running"  # needed again; see planning
        if teacher.state != "succeeded":
            run.state = "waiting"
    return run


def end(session: Session, run: Run, state: str, reason: str, moment: datetime) -> None:
    """The run has ended. Students that wait for it are queued, or fail with its reason."""
    run.state, run.reason, run.ended_at = state, reason, moment
    _release(run)
    if run.role == "teacher":
        _tell_students(session, run, moment)


def put_back(session: Session, run: Run, settings: Settings, reason: str, moment: datetime, *, wait: bool) -> None:
    """The attempt ended for a reason that is not the training's own: queue the run again, with its checkpoint.

    After ``max_attempts`` such attempts in a row without a new checkpoint it fails with that reason instead; with
    ``wait`` each further one is delayed twice as long. A run that was being cancelled is cancelled by this.
    """
    if run.state == "cancelling":
        end(session, run, "cancelled", "", moment)
        return
    run.faults += 1
    if run.faults >= settings.max_attempts:
        text = f"{reason}; given up after {run.faults} attempts in a row without a new checkpoint"
        end(session, run, "failed", text, moment)
        return
    run.state, run.reason = "queued", reason
    _release(run)
    if wait:
        delay = min(settings.retry_delay_seconds * 2.0 ** (run.faults - 1), settings.max_retry_delay_seconds)
        run.not_before = moment + timedelta(seconds=delay)


def hand_back(run: Run, reason: str) -> None:
    """Its worker was told to leave: queue the run again at once, as nobody's fault."""
    run.state, run.reason = "queued", reason
    _release(run)


def close_attempt(session: Session, run: Run, outcome: str, reason: str, moment: datetime) -> None:
    """Record how the run's current attempt ended. Call it before the run itself is moved on."""
    attempt = session.get(Attempt, (run.id, run.attempt))
    if attempt is not None and not attempt.outcome:
        attempt.outcome, attempt.reason, attempt.ended_at = outcome, reason, moment


def take_away(session: Session, runs: Iterable[Run], settings: Settings, reason: str, moment: datetime) -> None:
    """Put back runs whose worker has lost them."""
    for run in runs:
        close_attempt(session, run, "lost", reason, moment)
        put_back(session, run, settings, reason, moment, wait=False)


def _release(run: Run) -> None:
    run.worker_id = None
    run.lease_expires_at = None
    run.not_before = None


def _reset(run: Run) -> None:
    run.state, run.reason, run.log_tail = "queued", "", []
    run.faults, run.teacher_failed = 0, False
    run.not_before, run.ended_at = None, None


def _revive_teacher(session: Session, teacher: Run) -> None:
    other = live_teacher(session, teacher.fingerprint)
    if other is not None and other.id != teacher.id:
        raise conflict(f"the same teacher is there again as run {other.id}; retry the students instead")
    _reset(teacher)
    session.flush()
    session.execute(
        update(Run)
        .where(Run.teacher_run_id == teacher.id, Run.state == "failed", Run.teacher_failed)
        .values(state="waiting", reason="", teacher_failed=False, ended_at=None)
        .execution_options(synchronize_session=False)
    )


def _tell_students(session: Session, teacher: Run, moment: datetime) -> None:
    values: dict[str, object] = {"state": "queued"}
    if teacher.state != "succeeded":
        said = f"failed: {teacher.reason}" if teacher.state == "failed" else "was cancelled"
        reason = f"its teacher (run {teacher.id}) {said}"
        values = {"state": "failed", "reason": reason, "teacher_failed": True, "ended_at": moment}
    session.flush()
    session.execute(
        update(Run)
        .where(Run.teacher_run_id == teacher.id, Run.state == "waiting")
        .values(values)
        .execution_options(synchronize_session=False)
    )
