"""A run's states and the transitions between them. Functions with a run as argument expect its row to be locked.

``waiting`` (for its teachers) → ``queued`` → ``running`` → ``cancelling`` → ``succeeded`` | ``failed`` | ``cancelled``;
a lost or interrupted run returns to ``queued``, or to ``paused`` if a person has paused it meanwhile. Teachers are
locked before students, and runs of one role in the order of their ids, so that two transactions never deadlock. A
teacher may have teachers of its own, and is then a student of these.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Select, bindparam, exists, or_, select, update
from sqlalchemy.orm import Session, defer

from backend.db.models import Attempt, Experiment, ExperimentRun, Run
from backend.errors import conflict, not_found
from backend.queue import usage
from backend.queue.archived import is_archived, refuse_archived
from backend.queue.teacher_links import (
    all_teachers,
    direct_teachers,
    has_teacher_in,
    set_teachers,
    students_first,
    students_of,
)
from backend.queue.teachers import enqueue, inherit_priority, live_teacher, reactivate, refuse_if_students_wait
from backend.settings import Settings
from core.protocol.public import TERMINAL

_UNSTARTED = frozenset({"waiting", "queued", "paused"})
_UNSUCCESSFUL = ("failed", "cancelled")


def _lock_query(condition: ColumnElement[bool]) -> Select[Run]:
    return (
        select(Run)
        .where(condition)
        .order_by(Run.role.desc(), Run.id)
        .options(defer(Run.spec), defer(Run.environment), defer(Run.log_tail))
        .with_for_update()
        .execution_options(populate_existing=True)
    )


_LOCK_ONE = _lock_query(Run.id == bindparam("run_id"))
"""Built once: every report of a training's outcome starts with it."""


def lock_runs(session: Session, condition: ColumnElement[bool]) -> list[Run]:
    """Lock the runs that the condition selects, teachers first, and return them with their current values."""
    return list(session.scalars(_lock_query(condition)))


def lock_run(session: Session, run_id: str) -> Run:
    """Lock one run.

    Raises:
        ApiError: 404 if there is no such run.
    """
    run = session.scalars(_LOCK_ONE, {"run_id": run_id}).one_or_none()
    if run is None:
        raise not_found("run", run_id)
    return run


def lock_run_and_teachers(session: Session, run_id: str) -> tuple[Run, list[Run]]:
    """Lock one run, its teachers, their teachers, and so on.

    Returns:
        The run, and its teachers, each before its own teachers.

    Raises:
        ApiError: 404 if there is no such run.
    """
    runs = lock_runs(session, Run.id.in_([run_id, *all_teachers(session, [run_id])]))
    run = next((run for run in runs if run.id == run_id), None)
    if run is None:
        raise not_found("run", run_id)
    return run, students_first(session, [other for other in runs if other is not run]) if len(runs) > 1 else []


def lock_experiment_runs(session: Session, experiment_id: str) -> list[Run]:
    """Lock the unfinished runs of an experiment and the teachers for which they wait.

    Returns:
        The students, then the teachers, each before its own teachers.
    """
    linked = select(ExperimentRun.run_id).where(ExperimentRun.experiment_id == experiment_id)
    unfinished = Run.state.not_in(TERMINAL)
    # A student that was retried may have moved to a teacher of another experiment.
    waiting = session.scalars(select(Run.id).where(Run.id.in_(linked), unfinished, Run.teacher_run_id.is_not(None)))
    teachers = all_teachers(session, waiting)
    runs = lock_runs(session, or_(Run.id.in_(linked), Run.id.in_(teachers)) & unfinished)
    students = [run for run in runs if run.role == "student"]
    return students + students_first(session, [run for run in runs if run.role == "teacher"])


def cancel_run(session: Session, run_id: str, timestamp: datetime) -> None:
    """Cancel one run.

    Raises:
        ApiError: 404 if there is no such run, or 409 for a teacher for which students wait.
    """
    run, teachers = lock_run_and_teachers(session, run_id)
    if run.role == "teacher" and run.state not in (*TERMINAL, "cancelling"):
        refuse_if_students_wait(session, run)
    cancel(session, run, timestamp)
    inherit_priority(session, *teachers)


def cancel(session: Session, run: Run, timestamp: datetime) -> None:
    """Cancel an unfinished run. A leased run stays ``cancelling`` until its worker reports the end."""
    if run.state in _UNSTARTED:
        end_run(session, run, "cancelled", "", timestamp)
    elif run.state == "running":
        run.state, run.pausing = "cancelling", False


def cancel_experiment(session: Session, experiment_id: str, timestamp: datetime) -> None:
    """Cancel the unfinished runs of an experiment; a teacher only if no student of another experiment waits for it.

    No seed is added to it any more, until one of its runs is retried.
    """
    is_open = (Experiment.id == experiment_id) & Experiment.seeds_open.is_(True)
    session.execute(update(Experiment).where(is_open).values(seeds_open=False))
    runs = lock_experiment_runs(session, experiment_id)
    for run in runs:
        if run.role == "student":
            cancel(session, run, timestamp)
    session.flush()
    for run in runs:
        if run.role == "teacher":
            needed = select(exists().where(students_of(run.id), Run.state.not_in(TERMINAL)))
            if session.scalars(needed).one():
                inherit_priority(session, run)
            else:
                cancel(session, run, timestamp)
                session.flush()


def set_priority(session: Session, run_id: str, priority: int) -> None:
    """Change the priority of an unfinished run and, if necessary, of its teacher.

    Raises:
        ApiError: 404 if there is no such run, or 409 for a run that has ended or a teacher with its students' priority.
    """
    run, teachers = lock_run_and_teachers(session, run_id)
    if run.state in TERMINAL:
        raise conflict(f"this run has ended ({run.state}); its priority has no effect")
    run.priority = priority
    inherit_priority(session, *teachers)
    if run.role == "teacher":
        inherit_priority(session, run)
        if run.priority != priority:
            raise conflict(f"a teacher has the highest priority of its students, {run.priority}; change theirs")


def set_experiment_priority(session: Session, experiment_id: str, priority: int) -> None:
    """Change the priority of an experiment's unfinished runs; shared teachers inherit the highest of their students."""
    runs = lock_experiment_runs(session, experiment_id)
    for run in runs:
        run.priority = priority
    for run in runs:
        if run.role == "teacher":
            inherit_priority(session, run)


def retry(session: Session, run_id: str, timestamp: datetime) -> Run:
    """Queue a failed or cancelled run again; a run that is queued or running stays as it is.

    Retrying a student whose teacher failed or was cancelled retries the teacher too, and with it every student that
    failed because of it and is not archived.

    Raises:
        ApiError: 404 if there is no such run, or 409 if it has succeeded, is still being cancelled, or is archived.
    """
    if session.get(Run, run_id) is None:
        raise not_found("run", run_id)
    locked = lock_runs(session, Run.id.in_(_needed_by_retry(session, run_id)))
    run = next(row for row in locked if row.id == run_id)
    if run.state == "succeeded":
        raise conflict("this run has succeeded; submit an experiment to train it again")
    if run.state == "cancelling":
        raise conflict("this run is still being cancelled; retry it after that")
    if run.state not in TERMINAL:
        return run
    refuse_archived(session, run_id)
    if run.role == "teacher":
        _retry_teacher(session, run, timestamp)
    else:
        _reset_for_retry(run, timestamp)
        _await_teachers(session, run, timestamp)
    teachers = [row for row in locked if row.role == "teacher"]
    inherit_priority(session, *students_first(session, teachers))
    using = select(ExperimentRun.experiment_id).where(ExperimentRun.run_id == run_id)
    closed = Experiment.id.in_(using) & Experiment.seeds_open.is_(False)
    session.execute(update(Experiment).where(closed).values(seeds_open=True))
    return run


def end_run(session: Session, run: Run, state: str, reason: str, timestamp: datetime) -> None:
    """Set a run's terminal state. Students that wait for a teacher are queued, or fail with its reason.

    Args:
        session: A write transaction.
        run: The run.
        state: ``succeeded``, ``failed`` or ``cancelled``.
        reason: Reason of the state, for people.
        timestamp: Time of the end.
    """
    run.state, run.reason, run.ended_at = state, reason, timestamp
    run.pausing = False
    _clear_lease(run)
    if run.role == "teacher":
        _update_students(session, run, timestamp)


def requeue_with_backoff(
    session: Session, run: Run, settings: Settings, reason: str, timestamp: datetime, *, wait: bool
) -> None:
    """Queue a run again, with its checkpoint, after an attempt that did not end because of the training.

    After ``max_attempts`` such attempts in a row without a new checkpoint the run fails instead. The delay doubles with
    each attempt. A run that is being cancelled becomes cancelled, and a run that is to be paused becomes paused.

    Args:
        session: A write transaction.
        run: The run.
        settings: The backend's settings.
        reason: Reason of the attempt's end.
        timestamp: Time of the end.
        wait: Whether the first such attempt is delayed already, or only the second.
    """
    if run.state == "cancelling":
        end_run(session, run, "cancelled", "", timestamp)
        return
    run.faults += 1
    if run.faults >= settings.max_attempts:
        text = f"{reason}; failed after {run.faults} attempts in a row without a new checkpoint"
        end_run(session, run, "failed", text, timestamp)
        return
    requeue(run, reason, timestamp)
    doublings = run.faults - (1 if wait else 2)
    if doublings >= 0:
        delay = min(settings.retry_delay_seconds * 2.0**doublings, settings.max_retry_delay_seconds)
        run.not_before = timestamp + timedelta(seconds=delay)


def requeue(run: Run, reason: str, timestamp: datetime) -> None:
    """Queue a leased run again without counting a fault; pause it if a person has requested that."""
    _clear_lease(run)
    run.state = "paused" if run.pausing else "queued"
    run.reason, run.queued_at, run.pausing = reason, timestamp, False


def close_attempt(session: Session, run: Run, outcome: str, reason: str, timestamp: datetime) -> None:
    """Record how the run's current attempt ended. Call it before changing the run's state."""
    attempt = session.get(Attempt, (run.id, run.attempt))
    if attempt is not None and not attempt.outcome:
        attempt.outcome, attempt.reason, attempt.ended_at = outcome, reason, timestamp
        usage.end(session, run.id, run.attempt, timestamp)


def requeue_lost(session: Session, runs: Iterable[Run], settings: Settings, reason: str, timestamp: datetime) -> None:
    """Requeue runs that their worker has lost. The first time without delay: a run is rarely the cause of the loss."""
    for run in runs:
        close_attempt(session, run, "lost", reason, timestamp)
        requeue_with_backoff(session, run, settings, reason, timestamp, wait=False)


def _clear_lease(run: Run) -> None:
    run.worker_id = None
    run.lease_expires_at = None
    run.not_before = None


def _reset_for_retry(run: Run, timestamp: datetime) -> None:
    run.state, run.reason, run.log_tail = "queued", "", []
    run.queued_at = timestamp
    run.faults, run.teacher_failed = 0, False
    run.not_before, run.ended_at = None, None


def _needed_by_retry(session: Session, run_id: str) -> set[str]:
    """Return the ids of a run and of the teachers that a retry of it uses, with those in place of failed ones."""
    needed: set[str] = set()
    pending = {run_id}
    while pending:
        needed |= pending
        direct = {key for keys in direct_teachers(session, pending).values() for key in keys}
        failed = select(Run.fingerprint).where(Run.id.in_(direct), Run.state.in_(_UNSUCCESSFUL))
        live = [live_teacher(session, fingerprint) for fingerprint in session.scalars(failed)]
        pending = (direct | {teacher.id for teacher in live if teacher}) - needed
    return needed


def _await_teachers(session: Session, run: Run, timestamp: datetime) -> None:
    """Let a run that was reset wait for its teachers, which are retried or resumed where they do not run."""
    teacher_ids = []
    for teacher_id in direct_teachers(session, [run.id]).get(run.id, ()):
        teacher = session.get_one(Run, teacher_id)
        if teacher.state in _UNSUCCESSFUL:
            # The same teacher may have been created again since, under another id.
            teacher = live_teacher(session, teacher.fingerprint) or teacher
        if teacher.state in _UNSUCCESSFUL:
            _retry_teacher(session, teacher, timestamp)
        else:
            reactivate(session, teacher, timestamp)
        teacher_ids.append(teacher.id)
    if teacher_ids:
        set_teachers(session, run, teacher_ids)
        enqueue(session, [run], timestamp)


def _retry_teacher(session: Session, teacher: Run, timestamp: datetime) -> None:
    live = live_teacher(session, teacher.fingerprint)
    if live is not None and live.id != teacher.id:
        raise conflict(f"run {live.id} trains the same teacher; retry the students instead")
    _reset_for_retry(teacher, timestamp)
    _await_teachers(session, teacher, timestamp)
    session.flush()
    _revive_students(session, teacher.id)


def _revive_students(session: Session, teacher_id: str) -> None:
    """Let the runs wait again that failed because of a teacher, unless another of their teachers has failed too.

    Archived runs stay failed: they would train unseen.
    """
    because_of_it = students_of(teacher_id) & (Run.state == "failed") & Run.teacher_failed
    failed = because_of_it & ~has_teacher_in(_UNSUCCESSFUL) & ~is_archived()
    values = {"state": "waiting", "reason": "", "teacher_failed": False, "ended_at": None}
    revive = update(Run).values(values).execution_options(synchronize_session="fetch")
    teachers = session.execute(select(Run.id, Run.fingerprint).where(failed, Run.role == "teacher")).all()
    session.execute(revive.where(failed, Run.role == "student"))
    for row in teachers:
        if live_teacher(session, row.fingerprint) is None:  # else it was created again, under another id
            session.execute(revive.where(Run.id == row.id))
            _revive_students(session, row.id)


def _update_students(session: Session, teacher: Run, timestamp: datetime) -> None:
    session.flush()
    if teacher.state != "succeeded":
        ending = f"failed: {teacher.reason}" if teacher.state == "failed" else "was cancelled"
        _fail_students(session, teacher.id, f"its teacher (run {teacher.id}) {ending}", timestamp)
        return
    ready = students_of(teacher.id) & (Run.state == "waiting") & ~has_teacher_in(("succeeded",), negated=True)
    session.execute(
        update(Run)
        .where(ready)
        .values(state="queued", queued_at=timestamp)
        .execution_options(synchronize_session=False)
    )


def _fail_students(session: Session, teacher_id: str, reason: str, timestamp: datetime) -> None:
    """Fail the runs that wait for a teacher, and those that wait for these."""
    waiting = students_of(teacher_id) & Run.state.in_(("waiting", "paused"))
    teachers = session.scalars(select(Run.id).where(waiting, Run.role == "teacher")).all()
    session.execute(
        update(Run)
        .where(waiting)
        .values(state="failed", reason=reason, teacher_failed=True, ended_at=timestamp)
        .execution_options(synchronize_session=False)
    )
    for run_id in teachers:
        _fail_students(session, run_id, f"its teacher (run {run_id}) failed: {reason}", timestamp)
