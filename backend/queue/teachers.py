"""What a teacher's run has beyond other runs: it is one of its kind, it is needed by others, and it has their priority.

Every function wants the teacher's row locked by the caller, but for ``live_teacher`` and ``listed``.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import and_, func, select
from sqlalchemy.orm import Session, aliased, defer

from backend.db.models import Experiment, ExperimentRun, MetricLatest, MetricName, Run
from backend.errors import conflict
from backend.metrics.point_store import HAS_VALUE, decode
from backend.queue.eligibility import explain_wait, online_capacities
from core.protocol.public import TERMINAL, TeacherInfo

LIVE_TEACHER = and_(Run.role == "teacher", Run.state.not_in(("failed", "cancelled")))
"""A teacher that is trained or will be."""
_NAMED = 5
_MOST_LISTED = 1000
_TOP1 = "test/top1"


def live_teacher(session: Session, fingerprint: str, *, lock: bool = False) -> Run | None:
    """The teacher of that fingerprint that is trained or will be; there is at most one."""
    query = select(Run).where(LIVE_TEACHER, Run.fingerprint == fingerprint)
    if lock:
        query = query.with_for_update().execution_options(populate_existing=True)
    return session.scalars(query).one_or_none()


def reactivate(teacher: Run, moment: datetime) -> None:
    """A student has come that needs this teacher: it goes on where it was paused or being cancelled."""
    teacher.pausing = False
    if teacher.state == "paused":
        teacher.state, teacher.reason, teacher.queued_at = "queued", "", moment
    elif teacher.state == "cancelling":
        # Where the worker has been told already, it says "cancelled", and since nobody wants that any more the run
        # goes back to the queue.
        teacher.state = "running"


def inherit_priority(session: Session, teacher: Run) -> None:
    """Give a teacher the highest priority among the students that wait for it; nothing changes where none does."""
    session.flush()
    students = select(func.max(Run.priority)).where(Run.teacher_run_id == teacher.id, Run.state.not_in(TERMINAL))
    highest = session.scalars(students).one()
    if highest is not None and teacher.state not in TERMINAL:
        teacher.priority = highest


def refuse_if_students_wait(session: Session, teacher: Run) -> None:
    """Raises ApiError 409 that says who waits for the teacher, where anybody does."""
    query = (
        select(Experiment.name, func.count())
        .select_from(Run)
        .outerjoin(Experiment, Experiment.id == Run.experiment_id)
        .where(Run.teacher_run_id == teacher.id, Run.state.not_in(TERMINAL))
        .group_by(Experiment.name)
        .order_by(Experiment.name)
    )
    found = session.execute(query).all()
    if not found:
        return
    named = ", ".join(f"{count} of {name!r}" for name, count in found[:_NAMED])
    more = f" and {len(found) - _NAMED} more experiments" if len(found) > _NAMED else ""
    total = sum(count for _, count in found)
    raise conflict(f"{total} run(s) wait for this teacher: {named}{more}; cancel those, or their experiments, first")


def list_teachers(session: Session) -> list[TeacherInfo]:
    """The newest thousand, newest first, with what they were made of and who uses them."""
    latest, name, used, student = MetricLatest, MetricName, ExperimentRun, aliased(Run)
    students = select(func.count()).where(student.teacher_run_id == Run.id).correlate(Run).scalar_subquery()
    of_it = select(used.experiment_id).where(used.run_id == Run.id).correlate(Run)
    top1 = select(name.id).where(name.name == _TOP1).scalar_subquery()
    source, fine_tune = Run.spec["weights"]["source"].as_string(), Run.spec["weights"]["fine_tune"].as_boolean()
    query = (
        select(
            Run,
            latest.value,
            latest.kind,
            students.label("students"),
            of_it.with_only_columns(func.count()).scalar_subquery().label("experiments"),
            of_it.with_only_columns(func.max(used.experiment_id)).scalar_subquery().label("example"),
            source.label("source"),
            fine_tune.label("fine_tune"),
        )
        .outerjoin(latest, and_(latest.run_id == Run.id, latest.name_id == top1, HAS_VALUE))
        .where(Run.role == "teacher")
        .order_by(Run.id.desc())
        .limit(_MOST_LISTED)
        .options(defer(Run.spec), defer(Run.environment), defer(Run.log_tail))
    )
    known = online_capacities(session.connection())
    return [
        TeacherInfo(
            run_id=run.id,
            fingerprint=run.fingerprint,
            model=run.model,
            dataset=run.dataset,
            seed=run.seed,
            state=run.state,
            reason="; ".join(filter(None, (run.reason, explain_wait(run, known) if run.state == "queued" else ""))),
            epoch=run.epoch,
            total_epochs=run.total_epochs,
            created_at=run.created_at,
            top1=None if kind is None else decode(value, kind),
            students=count,
            experiments=experiments,
            example=example,
            weights=weights,
            fine_tuned=bool(fine_tuned),
        )
        for run, value, kind, count, experiments, example, weights, fine_tuned in session.execute(query)
    ]
