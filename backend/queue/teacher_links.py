"""Which runs wait for which: a run has one teacher or several, and a teacher may have teachers of its own.

The first teacher of a run is ``Run.teacher_run_id``; further ones, which few runs have, are in a table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import ColumnElement, delete, exists, insert, or_, select
from sqlalchemy.orm import Session, aliased

from backend.db import chunked
from backend.db.models import FurtherTeacher, Run


def students_of(teacher_id: str) -> ColumnElement[bool]:
    """Return the condition for the runs that have this teacher, teachers among them."""
    further = select(FurtherTeacher.run_id).where(FurtherTeacher.teacher_run_id == teacher_id)
    return or_(Run.teacher_run_id == teacher_id, Run.id.in_(further))


def has_teacher_in(states: Sequence[str], *, negated: bool = False) -> ColumnElement[bool]:
    """Return the condition for runs one of whose teachers is in one of the states, or ``negated`` in none of them."""
    teacher = aliased(Run)
    matches = teacher.state.not_in(states) if negated else teacher.state.in_(states)
    further = FurtherTeacher
    return or_(
        exists().where(teacher.id == Run.teacher_run_id, matches),
        exists().where(further.run_id == Run.id, further.teacher_run_id == teacher.id, matches),
    )


def direct_teachers(session: Session, run_ids: Iterable[str]) -> dict[str, list[str]]:
    """Return the ids of the teachers of each run that has any, in their order."""
    teachers: dict[str, list[str]] = {}
    for chunk in chunked(run_ids):
        first = select(Run.id, Run.teacher_run_id).where(Run.id.in_(chunk), Run.teacher_run_id.is_not(None))
        further = (
            select(FurtherTeacher.run_id, FurtherTeacher.teacher_run_id)
            .where(FurtherTeacher.run_id.in_(chunk))
            .order_by(FurtherTeacher.run_id, FurtherTeacher.position)
        )
        for query in (first, further):
            for run_id, teacher_id in session.execute(query):
                teachers.setdefault(run_id, []).append(str(teacher_id))
    return teachers


def all_teachers(session: Session, run_ids: Iterable[str]) -> set[str]:
    """Return the ids of the teachers of runs, of their teachers, and so on."""
    found: set[str] = set()
    pending = set(run_ids)
    while pending:
        direct = {teacher for teachers in direct_teachers(session, pending).values() for teacher in teachers}
        pending = direct - found
        found |= pending
    return found


def students_first(session: Session, runs: Sequence[Run]) -> list[Run]:
    """Return runs in an order in which each stands before its teachers."""
    links = direct_teachers(session, [run.id for run in runs])
    by_id = {run.id: run for run in runs}
    ordered: dict[str, Run] = {}

    def visit(run: Run) -> None:
        if run.id not in ordered:
            for teacher in links.get(run.id, ()):
                if teacher in by_id:
                    visit(by_id[teacher])
            ordered[run.id] = run

    for run in runs:
        visit(run)
    return list(reversed(ordered.values()))


def set_teachers(session: Session, run: Run, teacher_ids: Sequence[str]) -> None:
    """Replace the teachers of a run."""
    run.teacher_run_id = teacher_ids[0] if teacher_ids else None
    session.execute(delete(FurtherTeacher).where(FurtherTeacher.run_id == run.id))
    if rows := further_rows(run.id, teacher_ids):
        session.execute(insert(FurtherTeacher), rows)


def further_rows(run_id: str, teacher_ids: Sequence[str]) -> list[dict[str, object]]:
    """Return the rows of a run's teachers besides the first."""
    return [
        {"run_id": run_id, "position": position, "teacher_run_id": teacher_id}
        for position, teacher_id in enumerate(teacher_ids)
        if position
    ]
