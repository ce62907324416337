"""Runs: list, look at, cancel, retry, pause, resume, put before others."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Query, Response

from backend.api.boundary import BoundedRoute
from backend.api.dependencies import DatabaseDep, SessionDep, StoreDep, WakerDep, reads, submits
from backend.db import Database, now
from backend.errors import not_found
from backend.experiments import experiment_edits, list_queries, serializers
from backend.queue import lifecycle, pausing
from backend.routes.experiments import find
from core.protocol import public

router = APIRouter(prefix="/runs", tags=["runs"], route_class=BoundedRoute)


@router.get(
    "",
    dependencies=[reads],
    response_model=public.RunPage,
    responses={404: {"description": "There is no such experiment"}},
)
def runs(session: SessionDep, kept: Annotated[list_queries.RunQuery, Query()]) -> Response:
    """Runs, newest first unless asked otherwise."""
    page = list_queries.run_page(session, kept, find(session, kept.experiment) if kept.experiment else None)
    return Response(page.model_dump_json(), media_type="application/json")  # validating our own rows costs more


@router.get("/{run_id}", dependencies=[reads])
def run(run_id: str, session: SessionDep) -> public.Run:
    """A run with its spec, attempts and environment."""
    found = serializers.whole_run(session, run_id)
    if found is None:
        raise not_found("run", run_id)
    return found


@router.post(
    "/{run_id}/cancel",
    dependencies=[submits],
    responses={409: {"description": "It is a teacher, and runs wait for it"}},
)
def cancel(run_id: str, database: DatabaseDep) -> public.Run:
    """Cancel a run. One that trains is `cancelling` until its worker says that no process is left.

    Nothing changes where it has ended. 409, with who they are, for a teacher that runs wait for.
    """
    with database.write() as session:
        lifecycle.cancel_one(session, run_id, now(session))
    return _whole(database, run_id)


@router.post("/{run_id}/pause", dependencies=[submits])
def pause(run_id: str, database: DatabaseDep) -> public.Run:
    """Pause a run. One that trains is `pausing` until its worker has handed it back with a checkpoint.

    Nothing changes where it has ended or is being cancelled.
    """
    with database.write() as session:
        pausing.pause(session, run_id)
    return _whole(database, run_id)


@router.post("/{run_id}/resume", dependencies=[submits])
def resume(run_id: str, database: DatabaseDep, waker: WakerDep) -> public.Run:
    """Let a paused run go on, from its checkpoint, and its teacher with it. Nothing changes where it is not paused."""
    with database.write() as session:
        pausing.resume(session, run_id, now(session))
    waker.wake()
    return _whole(database, run_id)


@router.post(
    "/{run_id}/priority",
    dependencies=[submits],
    responses={409: {"description": "It has ended, or is a teacher, which has the highest priority of its students"}},
)
def priority(run_id: str, change: public.PriorityChange, database: DatabaseDep) -> public.Run:
    """Change a run's priority, and its teacher's with it: a teacher has the highest among the runs that wait for it.

    A run that trains goes on; the priority counts when it is queued again.
    """
    with database.write() as session:
        lifecycle.set_priority(session, run_id, change.priority)
    return _whole(database, run_id)


@router.post(
    "/{run_id}/retry",
    dependencies=[submits],
    responses={409: {"description": "It has succeeded, or is being cancelled"}},
)
def retry(run_id: str, database: DatabaseDep, waker: WakerDep) -> public.Run:
    """Put a failed or cancelled run back in the queue, with its last checkpoint, and its teacher with it if need be.

    Nothing changes where it is queued or running already; 409 where it succeeded or is being cancelled.
    """
    with database.write() as session:
        lifecycle.retry(session, run_id, now(session))
    waker.wake()
    return _whole(database, run_id)


@router.delete(
    "/{run_id}",
    status_code=204,
    dependencies=[submits],
    responses={409: {"description": "It has not ended, or is a teacher that students use"}},
)
def delete(run_id: str, database: DatabaseDep, store: StoreDep, tasks: BackgroundTasks) -> None:
    """Delete a run with its metrics, logs and files. It cannot be had back.

    409 while it has not ended, and for a teacher that students use.
    """
    with database.write() as session:
        gone = experiment_edits.delete_run(session, run_id)
    tasks.add_task(store.remove_runs, gone)


def _whole(database: Database, run_id: str) -> public.Run:
    with database.read() as session:
        found = serializers.whole_run(session, run_id)
    if found is None:
        raise not_found("run", run_id)
    return found
