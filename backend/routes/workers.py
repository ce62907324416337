"""Lists of workers and teachers, and draining of workers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from backend import audit
from backend.api.boundary import BoundedRoute
from backend.api.dependencies import DatabaseDep, NudgesDep, SessionDep, administers, reads
from backend.queue import teachers, worker_queries
from backend.queue.worker_registry import drain as drain_worker
from core.protocol.public import DrainChange, TeacherList, WorkerList

router = APIRouter(route_class=BoundedRoute)


@router.get("/workers", tags=["workers"], dependencies=[reads])
def list_workers(session: SessionDep) -> WorkerList:
    """List every worker that has ever registered, with its runs; online workers first, then by name."""
    return WorkerList(items=worker_queries.list_workers(session))


@router.post(
    "/workers/{key}/drain",
    tags=["workers"],
    dependencies=[administers],
    responses={409: {"description": "Several workers have that name"}},
)
def drain(
    key: Annotated[str, Path(max_length=120, description="The worker's name or id.")],
    database: DatabaseDep,
    nudges: NudgesDep,
    change: DrainChange | None = None,
) -> WorkerList:
    """Stop a worker from claiming new runs, or let it claim runs again. Its current runs continue.

    The setting survives restarts of the worker.
    """
    with database.write() as session:
        audit.note(draining=(change or DrainChange()).draining)
        drain_worker(session, key, (change or DrainChange()).draining)
    nudges.request()
    with database.read() as session:
        return WorkerList(items=worker_queries.list_workers(session))


@router.get("/teachers", tags=["teachers"], dependencies=[reads])
def list_teachers(session: SessionDep) -> TeacherList:
    """List the newest 1,000 teachers with the number of their students, newest first."""
    return TeacherList(items=teachers.list_teachers(session))
