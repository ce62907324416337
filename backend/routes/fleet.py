"""Who works, and the teachers that students wait for."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Path
from sqlalchemy import and_, func, select
from sqlalchemy.orm import aliased

from backend import fleet
from backend.db import models
from backend.deps import DatabaseDep, NudgerDep, SessionDep, administers, reads
from backend.metrics_store import KNOWN, decode
from backend.reconciler import send_nudges
from backend.texts import clean
from backend.workers import drain as drain_worker
from core.wire.public import DrainChange, TeacherInfo, TeacherList, WorkerList

router = APIRouter()

_MAX_TEACHERS = 1000
_TOP1 = "test/top1"


@router.get("/workers", tags=["workers"], dependencies=[reads])
def list_workers(session: SessionDep) -> WorkerList:
    """Every worker that has ever registered, by name, those online first, with what it does."""
    return WorkerList(items=fleet.workers(session))


@router.post(
    "/workers/{key}/drain",
    tags=["workers"],
    dependencies=[administers],
    responses={409: {"description": "Several workers have that name"}},
)
def drain(
    key: Annotated[str, Path(max_length=120, description="Its name or id.")],
    database: DatabaseDep,
    nudger: NudgerDep,
    tasks: BackgroundTasks,
    change: DrainChange | None = None,
) -> WorkerList:
    """Have a worker take no new runs, or let it again; what it has goes on. It is remembered over restarts."""
    with database.write() as session:
        drain_worker(session, clean(key), (change or DrainChange()).draining)
    tasks.add_task(send_nudges, database, nudger)
    with database.read() as session:
        return WorkerList(items=fleet.workers(session))


@router.get("/teachers", tags=["teachers"], dependencies=[reads])
def list_teachers(session: SessionDep) -> TeacherList:
    """The newest thousand teachers with the number of their students, newest first."""
    run, latest, name = models.Run, models.MetricLatest, models.MetricName
    student = aliased(run)
    students = (
        select(func.count())
        .select_from(student)
        .where(student.teacher_run_id == run.id)
        .correlate(run)
        .scalar_subquery()
    )
    top1 = select(name.id).where(name.name == _TOP1).scalar_subquery()
    rows = session.execute(
        select(
            run.id, run.fingerprint, run.model, run.dataset, run.seed, run.state, latest.value, latest.kind, students
        )
        .outerjoin(latest, and_(latest.run_id == run.id, latest.name_id == top1, KNOWN))
        .where(run.role == "teacher")
        .order_by(run.id.desc())
        .limit(_MAX_TEACHERS)
    )
    return TeacherList(
        items=[
            TeacherInfo(
                run_id=run_id,
                fingerprint=fingerprint,
                model=model,
                dataset=dataset,
                seed=seed,
                state=state,
                top1=None if kind is None else decode(value, kind),
                students=count,
            )
            for run_id, fingerprint, model, dataset, seed, state, value, kind, count in rows
        ]
    )
