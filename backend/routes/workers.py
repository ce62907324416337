"""Lists of workers and teachers, and draining of workers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response

from backend import audit
from backend.api.boundary import BoundedRoute
from backend.api.dependencies import DatabaseDep, FlightsDep, NudgesDep, SessionDep, administers, reads
from backend.people import rights
from backend.queue import teachers, worker_queries
from backend.queue.worker_registry import drain as drain_worker
from core.protocol.public import DrainChange, TeacherList, WorkerList

router = APIRouter(route_class=BoundedRoute)


@router.get("/workers", tags=["workers"], dependencies=[reads], response_model=WorkerList)
async def list_workers(database: DatabaseDep, flights: FlightsDep) -> Response:
    """List every worker that has ever registered, with its runs; online workers first, then by name."""

    def work() -> str:
        with database.read() as session:
            return WorkerList(items=worker_queries.list_workers(session)).model_dump_json()

    answer = await flights.run(("workers", rights.view_key()), work)
    return Response(answer, media_type="application/json")


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
