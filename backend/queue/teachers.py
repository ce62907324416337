"""Teachers: runs that are unique by fingerprint, awaited by students, and inherit the students' priority.

The caller has locked the teacher's row, except for ``live_teacher`` and ``list_teachers``.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import and_, case, func, select
from sqlalchemy.orm import Session, aliased, defer

from backend.db import chunked, headlines
from backend.db.models import Experiment, ExperimentRun, FurtherTeacher, Run
from backend.errors import conflict
from backend.metrics.point_store import decode
from backend.queue.teacher_links import direct_teachers, has_teacher_in, students_of
from backend.queue.wait_reasons import WaitReasons
from core.protocol.public import TERMINAL, TeacherInfo

LIVE_TEACHER = and_(Run.role == "teacher", Run.state.not_in(("failed", "cancelled")))
"""Condition for teachers that have been trained, are being trained or will be trained."""
_MAX_NAMED = 5
_MAX_LISTED = 1000


def live_teacher(session: Session, fingerprint: str, *, lock: bool = False) -> Run | None:
    """Return the live teacher (see ``LIVE_TEACHER``) with the fingerprint; there is at most one.

    Args:
        session: A transaction.
        fingerprint: Fingerprint of the run's spec.
        lock: Whether to lock its row.
    """
    query = select(Run).where(LIVE_TEACHER, Run.fingerprint == fingerprint)
    if lock:
        query = query.with_for_update().execution_options(populate_existing=True)
    return session.scalars(query).one_or_none()


def enqueue(session: Session, runs: Sequence[Run], timestamp: datetime) -> None:
    """Queue runs, or let them wait for their teachers."""
    session.flush()
    unfinished = has_teacher_in(("succeeded",), negated=True)
    waiting: set[str] = set()
    for chunk in chunked(run.id for run in runs):
        waiting.update(session.scalars(select(Run.id).where(Run.id.in_(chunk), unfinished)))
    for run in runs:
        run.state, run.queued_at = ("waiting", None) if run.id in waiting else ("queued", timestamp)


def reactivate(session: Session, teacher: Run, timestamp: datetime) -> None:
    """Resume a teacher that is paused or being cancelled, because a student waits for it again; its teachers too."""
    if teacher.state == "succeeded":
        return
    for run_id in direct_teachers(session, [teacher.id]).get(teacher.id, ()):
        reactivate(session, session.get_one(Run, run_id), timestamp)
    teacher.pausing = False
    if teacher.state == "paused":
        teacher.reason = ""
        enqueue(session, [teacher], timestamp)
    elif teacher.state == "cancelling":
        # If its worker already has the order, it will report "cancelled"; the run then returns to the queue.
        teacher.state = "running"


def inherit_priority(session: Session, *teachers: Run) -> None:
    """Set the priority of teachers to the highest of the runs that wait for each; without such runs it stays.

    Args:
        session: A write transaction.
        teachers: Students' teachers before teachers' teachers.
    """
    for teacher in teachers:
        session.flush()
        students = select(func.max(Run.priority)).where(students_of(teacher.id), Run.state.not_in(TERMINAL))
        highest = session.scalars(students).one()
        if highest is not None and teacher.state not in TERMINAL:
            teacher.priority = highest


def refuse_if_students_wait(session: Session, teacher: Run) -> None:
    """Refuse a change while students wait for the teacher.

    Raises:
        ApiError: 409 with the experiments of these students.
    """
    query = (
        select(Experiment.name, func.count())
        .select_from(Run)
        .outerjoin(Experiment, Experiment.id == Run.experiment_id)
        .where(students_of(teacher.id), Run.state.not_in(TERMINAL))
        .group_by(Experiment.name)
        .order_by(Experiment.name)
    )
    waiting = session.execute(query).all()
    if not waiting:
        return
    experiment_names = ", ".join(f"{count} of {name!r}" for name, count in waiting[:_MAX_NAMED])
    more = f" and {len(waiting) - _MAX_NAMED} more experiments" if len(waiting) > _MAX_NAMED else ""
    total = sum(count for _, count in waiting)
    raise conflict(
        f"{total} run(s) wait for this teacher: {experiment_names}{more}; cancel them or their experiments first"
    )


def list_teachers(session: Session) -> list[TeacherInfo]:
    """Return the newest 1,000 teachers, newest first, with the students and experiments that use them."""
    link, student = ExperimentRun, aliased(Run)
    on_test, on_held_out = headlines.ON_TEST, headlines.ON_HELD_OUT
    first = select(func.count()).where(student.teacher_run_id == Run.id).correlate(Run).scalar_subquery()
    further = select(func.count()).where(FurtherTeacher.teacher_run_id == Run.id).correlate(Run).scalar_subquery()
    students = first + further
    experiments_of_run = select(link.experiment_id).where(link.run_id == Run.id).correlate(Run)
    source, fine_tune = Run.spec["weights"]["source"].as_string(), Run.spec["weights"]["fine_tune"].as_boolean()
    query = (
        select(
            Run,
            headlines.value(),
            case((on_test.kind.is_not(None), on_test.kind), else_=on_held_out.kind),
            and_(on_test.kind.is_(None), on_held_out.kind.is_not(None)),
            students.label("students"),
            experiments_of_run.with_only_columns(func.count()).scalar_subquery().label("experiments"),
            experiments_of_run.with_only_columns(func.max(link.experiment_id)).scalar_subquery().label("example"),
            source.label("source"),
            fine_tune.label("fine_tune"),
        )
        .where(Run.role == "teacher")
        .order_by(Run.id.desc())
        .limit(_MAX_LISTED)
        .options(defer(Run.spec), defer(Run.environment), defer(Run.log_tail))
    )
    for latest, condition in headlines.joins():
        query = query.outerjoin(latest, condition)
    reasons = WaitReasons.read(session.connection())
    return [
        TeacherInfo(
            run_id=run.id,
            fingerprint=run.fingerprint,
            model=run.model,
            dataset=run.dataset,
            seed=run.seed,
            state=run.state,
            reason="; ".join(filter(None, (run.reason, reasons.of(run) if run.state == "queued" else ""))),
            epoch=run.epoch,
            total_epochs=run.total_epochs,
            created_at=run.created_at,
            headline=headlines.of_task(run.dataset, held_out=held_out),
            top1=None if kind is None else decode(value, kind),
            students=count,
            experiments=experiments,
            example=example,
            weights=weights,
            fine_tuned=bool(fine_tuned),
        )
        for run, value, kind, held_out, count, experiments, example, weights, fine_tuned in session.execute(query)
    ]
