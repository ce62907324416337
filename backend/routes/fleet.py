"""Who works, and the teachers that students wait for."""

from __future__ import annotations

from collections import defaultdict

from fastapi import APIRouter
from sqlalchemy import and_, func, select
from sqlalchemy.orm import aliased

from backend.db import models
from backend.deps import SessionDep, reads
from backend.metrics_store import decode
from core.wire.public import TeacherInfo, TeacherList, Worker, WorkerList

router = APIRouter(dependencies=[reads])

_MAX_TEACHERS = 1000
_TOP1 = "test/top1"


@router.get("/workers", tags=["workers"])
def list_workers(session: SessionDep) -> WorkerList:
    """Every worker that has ever registered, by name, those online first."""
    run, worker = models.Run, models.Worker
    running: dict[str, list[str]] = defaultdict(list)
    held = select(run.worker_id, run.id).where(run.state.in_(("running", "cancelling"))).order_by(run.id)
    for worker_id, run_id in session.execute(held):
        running[worker_id or ""].append(run_id)
    workers = session.scalars(select(worker).order_by(worker.state.desc(), worker.name, worker.id))
    return WorkerList(
        items=[
            Worker.model_validate(
                {
                    "id": found.id,
                    "name": found.name,
                    "host": found.host,
                    "slots": found.slots,
                    "device": found.device,
                    "state": found.state,
                    "running": running[found.id],
                    "last_heartbeat": found.last_heartbeat,
                    "version": found.version,
                }
            )
            for found in workers
        ]
    )


@router.get("/teachers", tags=["teachers"])
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
        .outerjoin(latest, and_(latest.run_id == run.id, latest.name_id == top1))
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
