"""A run's states and how it moves between them. Every function wants the run's row locked by the caller.

``waiting`` (for its teacher) → ``queued`` → ``running`` → ``cancelling`` → ``succeeded`` | ``failed`` | ``cancelled``;
a lost or interrupted run goes back to ``queued``, or to ``paused`` where a person has asked for that meanwhile.
Teachers are locked before students, and runs of one role in the order of their ids, so that no two transactions wait
for each other.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Select, bindparam, exists, or_, select, update
from sqlalchemy.orm import Session, defer

from backend.db.models import Attempt, ExperimentRun, Run
from backend.errors import conflict, not_found
from backend.queue.teachers import inherit_priority, live_teacher, reactivate, refuse_if_students_wait
from backend.settings import Settings
from core.protocol.public import TERMINAL

_UNSTARTED = frozenset({"waiting", "queued", "paused"})
LEASED_STATES = ("running", "cancelling")
"""States in which a worker has the run."""


def _locking(which: ColumnElement[bool]) -> Select[Run]:
    return (
        select(Run)
        .where(which)
        .order_by(Run.role.desc(), Run.id)
        .options(defer(Run.spec), defer(Run.environment), defer(Run.log_tail))
        .with_for_update()
        .execution_options(populate_existing=True)
    )


_LOCKING_ONE = _locking(Run.id == bindparam("wanted"))
"""Made once: every post of a training begins with it."""


def lock_runs(session: Session, which: ColumnElement[bool]) -> list[Run]:
    """The runs that the condition selects, locked, teachers first, as they are now."""
    return list(session.scalars(_locking(which)))


def lock_run(session: Session, run_id: str) -> Run:
    """One run, locked. Raises ApiError 404."""
    found = session.scalars(_LOCKING_ONE, {"wanted": run_id}).one_or_none()
    if found is None:
        raise not_found("run", run_id)
    return found


def lock_run_and_teacher(session: Session, run_id: str) -> tuple[Run, Run | None]:
    """One run and the teacher it refers to, both locked. Raises ApiError 404."""
    teacher_id = session.scalars(select(Run.teacher_run_id).where(Run.id == run_id)).one_or_none()
    found = {run.id: run for run in lock_runs(session, Run.id.in_([run_id, teacher_id] if teacher_id else [run_id]))}
    if run_id not in found:
        raise not_found("run", run_id)
    return found[run_id], found.get(teacher_id or "")


def lock_experiment_runs(session: Session, experiment_id: str) -> list[Run]:
    """The runs of an experiment that have not ended and the teachers they wait for, locked, teachers first."""
    linked = select(ExperimentRun.run_id).where(ExperimentRun.experiment_id == experiment_id)
    # A student that was retried may have moved to a teacher that another experiment has asked for.
    teachers = select(Run.teacher_run_id).where(Run.id.in_(linked), Run.teacher_run_id.is_not(None))
    return lock_runs(session, or_(Run.id.in_(linked), Run.id.in_(teachers)) & Run.state.not_in(TERMINAL))


def cancel_run(session: Session, run_id: str, moment: datetime) -> None:
    """Cancel one run. Raises ApiError 404, or 409 for a teacher that students wait for."""
    run, teacher = lock_run_and_teacher(session, run_id)
    if run.role == "teacher" and run.state not in (*TERMINAL, "cancelling"):
        refuse_if_students_wait(session, run)
    cancel(session, run, moment)
    if teacher is not None:
        inherit_priority(session, teacher)


def cancel(session: Session, run: Run, moment: datetime) -> None:
    """Cancel a run that has not ended. One that a worker has is ``cancelling`` until the worker says it is gone."""
    if run.state in _UNSTARTED:
        end_run(session, run, "cancelled", "", moment)
    elif run.state == "running":
        run.state, run.pausing = "cancelling", False


def cancel_experiment(session: Session, experiment_id: str, moment: datetime) -> None:
    """Cancel what an experiment has left, but a teacher only where no student of another experiment needs it."""
    runs = lock_experiment_runs(session, experiment_id)
    for run in runs:
        if run.role == "student":
            cancel(session, run, moment)
    session.flush()
    for run in runs:
        if run.role == "teacher":
            needed = select(exists().where(Run.teacher_run_id == run.id, Run.state.not_in(TERMINAL)))
            if session.scalars(needed).one():
                inherit_priority(session, run)
            else:
                cancel(session, run, moment)


def set_priority(session: Session, run_id: str, priority: int) -> None:
    """Change the priority of a run that has not ended, and its teacher's with it.

    Raises ApiError 404, or 409 for a run that has ended or a teacher that has its students' priority.
    """
    run, teacher = lock_run_and_teacher(session, run_id)
    if run.state in TERMINAL:
        raise conflict(f"this run has {run.state}; a priority means nothing to it any more")
    run.priority = priority
    if teacher is not None:
        inherit_priority(session, teacher)
    if run.role == "teacher":
        inherit_priority(session, run)
        if run.priority != priority:
            raise conflict(f"a teacher has the highest priority of its students, {run.priority}; change theirs")


def set_experiment_priority(session: Session, experiment_id: str, priority: int) -> None:
    """Change the priority of all runs of an experiment that have not ended; shared teachers inherit the highest."""
    runs = lock_experiment_runs(session, experiment_id)
    for run in runs:
        run.priority = priority
    for run in runs:
        if run.role == "teacher":
            inherit_priority(session, run)


def retry(session: Session, run_id: str, moment: datetime) -> Run:
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
    run = next(row for row in lock_runs(session, Run.id.in_(wanted)) if row.id == run_id)
    if run.state == "succeeded":
        raise conflict("this run has succeeded; submit an experiment to train it again")
    if run.state == "cancelling":
        raise conflict("this run is still being cancelled; retry it when it is")
    if run.state not in TERMINAL:
        return run
    if run.role == "teacher":
        _revive_teacher(session, run, moment)
        inherit_priority(session, run)
        return run
    _reset(run, moment)
    if teacher is not None:
        run.teacher_run_id = teacher.id
        if teacher.state in ("failed", "cancelled"):
            _revive_teacher(session, teacher, moment)
        else:
            reactivate(teacher, moment)
        if teacher.state != "succeeded":
            run.state, run.queued_at = "waiting", None
            inherit_priority(session, teacher)
    return run


def end_run(session: Session, run: Run, state: str, reason: str, moment: datetime) -> None:
    """The run has ended. Students that wait for it are queued, or fail with its reason."""
    run.state, run.reason, run.ended_at = state, reason, moment
    run.pausing = False
    _release(run)
    if run.role == "teacher":
        _tell_students(session, run, moment)


def requeue_with_backoff(
    session: Session, run: Run, settings: Settings, reason: str, moment: datetime, *, wait: bool
) -> None:
    """The attempt ended for a reason that is not the training's own: queue the run again, with its checkpoint.

    After ``max_attempts`` such attempts in a row without a new checkpoint it fails with that reason instead. Each
    further one is delayed twice as long: with ``wait`` from the first on, without it from the second on. A run that
    was being cancelled is cancelled by this, one that was to be paused is.
    """
    if run.state == "cancelling":
        end_run(session, run, "cancelled", "", moment)
        return
    run.faults += 1
    if run.faults >= settings.max_attempts:
        text = f"{reason}; given up after {run.faults} attempts in a row without a new checkpoint"
        end_run(session, run, "failed", text, moment)
        return
    requeue(run, reason, moment)
    doublings = run.faults - (1 if wait else 2)
    if doublings >= 0:
        delay = min(settings.retry_delay_seconds * 2.0**doublings, settings.max_retry_delay_seconds)
        run.not_before = moment + timedelta(seconds=delay)


def requeue(run: Run, reason: str, moment: datetime) -> None:
    """Queue a run that a worker had, as nobody's fault; pause it where that was asked for."""
    _release(run)
    run.state = "paused" if run.pausing else "queued"
    run.reason, run.queued_at, run.pausing = reason, moment, False


def close_attempt(session: Session, run: Run, outcome: str, reason: str, moment: datetime) -> None:
    """Record how the run's current attempt ended. Call it before the run itself is moved on."""
    attempt = session.get(Attempt, (run.id, run.attempt))
    if attempt is not None and not attempt.outcome:
        attempt.outcome, attempt.reason, attempt.ended_at = outcome, reason, moment


def requeue_lost(session: Session, runs: Iterable[Run], settings: Settings, reason: str, moment: datetime) -> None:
    """Put back runs whose worker has lost them: the first time at once, since a run is seldom why a worker is lost."""
    for run in runs:
        close_attempt(session, run, "lost", reason, moment)
        requeue_with_backoff(session, run, settings, reason, moment, wait=False)


def _release(run: Run) -> None:
    run.worker_id = None
    run.lease_expires_at = None
    run.not_before = None


def _reset(run: Run, moment: datetime) -> None:
    run.state, run.reason, run.log_tail = "queued", "", []
    run.queued_at = moment
    run.faults, run.teacher_failed = 0, False
    run.not_before, run.ended_at = None, None


def _revive_teacher(session: Session, teacher: Run, moment: datetime) -> None:
    other = live_teacher(session, teacher.fingerprint)
    if other is not None and other.id != teacher.id:
        raise conflict(f"the same teacher is there again as run {other.id}; retry the students instead")
    _reset(teacher, moment)
    session.flush()
    session.execute(
        update(Run)
        .where(Run.teacher_run_id == teacher.id, Run.state == "failed", Run.teacher_failed)
        .values(state="waiting", reason="", teacher_failed=False, ended_at=None)
        .execution_options(synchronize_session=False)
    )


def _tell_students(session: Session, teacher: Run, moment: datetime) -> None:
    values: dict[str, object] = {"state": "queued", "queued_at": moment}
    told = ["waiting"]
    if teacher.state != "succeeded":
        said = f"failed: {teacher.reason}" if teacher.state == "failed" else "was cancelled"
        reason = f"its teacher (run {teacher.id}) {said}"
        values = {"state": "failed", "reason": reason, "teacher_failed": True, "ended_at": moment}
        told.append("paused")
    session.flush()
    session.execute(
        update(Run)
        .where(Run.teacher_run_id == teacher.id, Run.state.in_(told))
        .values(values)
        .execution_options(synchronize_session=False)
    )
