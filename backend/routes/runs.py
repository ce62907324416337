"""Runs: list, read, cancel, retry, pause, resume, prioritize, delete."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Query, Response

from backend import audit
from backend.api.boundary import BoundedRoute
from backend.api.dependencies import DatabaseDep, NudgesDep, SessionDep, StoreDep, reads, submits
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
def runs(session: SessionDep, query: Annotated[list_queries.RunQuery, Query()]) -> Response:
    """List runs, newest first by default."""
    page = list_queries.run_page(session, query, find(session, query.experiment) if query.experiment else None)
    return Response(page.model_dump_json(), media_type="application/json")  # FastAPI would validate it again


@router.get("/{run_id}", dependencies=[reads])
def run(run_id: str, session: SessionDep) -> public.Run:
    """Read a run with its spec, attempts and environment."""
    full_run = serializers.full_run(session, run_id)
    if full_run is None:
        raise not_found("run", run_id)
    return full_run


@router.post(
    "/{run_id}/cancel",
    dependencies=[submits],
    responses={409: {"description": "The run is a teacher for which other runs wait"}},
)
def cancel(run_id: str, database: DatabaseDep) -> public.Run:
    """Cancel a run. A training run is `cancelling` until its worker reports that all its processes have ended.

    Nothing changes if the run has ended. 409 for a teacher for which other runs wait; the answer names them.
    """
    with database.write() as session:
        lifecycle.cancel_run(session, run_id, now(session))
    return _changed_run(database, run_id)


@router.post("/{run_id}/pause", dependencies=[submits])
def pause(run_id: str, database: DatabaseDep) -> public.Run:
    """Pause a run. A training run is `pausing` until its worker has returned it to the queue with a checkpoint.

    Nothing changes if the run has ended or is being cancelled.
    """
    with database.write() as session:
        pausing.pause(session, run_id)
    return _changed_run(database, run_id)


@router.post(
    "/{run_id}/resume", dependencies=[submits], responses={409: {"description": "The run's experiment is archived"}}
)
def resume(run_id: str, database: DatabaseDep, nudges: NudgesDep) -> public.Run:
    """Resume a paused run from its checkpoint, and its teacher too. Nothing changes if the run is not paused.

    409 if every experiment that uses the run is archived.
    """
    with database.write() as session:
        pausing.resume(session, run_id, now(session))
    nudges.request()
    return _changed_run(database, run_id)


@router.post(
    "/{run_id}/priority",
    dependencies=[submits],
    responses={409: {"description": "The run has ended, or is a teacher, whose priority follows its students"}},
)
def priority(run_id: str, change: public.PriorityChange, database: DatabaseDep) -> public.Run:
    """Change a run's priority and its teacher's: a teacher has the highest priority of the runs that wait for it.

    A training run continues; its priority counts if it is queued again.
    """
    with database.write() as session:
        audit.note(priority=change.priority)
        lifecycle.set_priority(session, run_id, change.priority)
    return _changed_run(database, run_id)


@router.post(
    "/{run_id}/retry",
    dependencies=[submits],
    responses={409: {"description": "The run has succeeded or is being cancelled, or its experiment is archived"}},
)
def retry(run_id: str, database: DatabaseDep, nudges: NudgesDep) -> public.Run:
    """Queue a failed or cancelled run again with its last checkpoint, and its teacher if it has not succeeded.

    Nothing changes if the run is queued or running; 409 if it has succeeded or is being cancelled, or if every
    experiment that uses it is archived.
    """
    with database.write() as session:
        lifecycle.retry(session, run_id, now(session))
    nudges.request()
    return _changed_run(database, run_id)


@router.delete(
    "/{run_id}",
    status_code=204,
    dependencies=[submits],
    responses={409: {"description": "The run has not ended, or is a teacher that students use"}},
)
def delete(run_id: str, database: DatabaseDep, store: StoreDep, tasks: BackgroundTasks) -> None:
    """Delete a run with its metrics, logs and files. Deletion is final.

    409 if the run has not ended, or is a teacher that students use.
    """
    with database.write() as session:
        deleted = experiment_edits.delete_run(session, run_id)
    tasks.add_task(store.remove_runs, deleted)


def _changed_run(database: Database, run_id: str) -> public.Run:
    with database.read() as session:
        full_run = serializers.full_run(session, run_id)
    if full_run is None:
        raise not_found("run", run_id)
    return full_run
