"""Runs: list, look at, cancel, retry, pause, resume, put before others."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Query
from sqlalchemy import select

from backend import lifecycle, pausing, views
from backend.db import Database, now
from backend.db.models import ExperimentRun, Run
from backend.deps import DatabaseDep, NudgerDep, SessionDep, reads, submits
from backend.errors import not_found
from backend.pages import Cursor, Limit, decode_cursor, encode_cursor
from backend.reconciler import send_nudges
from backend.routes.experiments import find
from core.wire import public
from core.wire.public import RunState

router = APIRouter(prefix="/runs", tags=["runs"])


@router.get("", dependencies=[reads])
def runs(
    session: SessionDep,
    state: Annotated[list[RunState] | None, Query(description="Any of these.")] = None,
    experiment: Annotated[str | None, Query(max_length=100, description="Id or name.")] = None,
    method: Annotated[str | None, Query(max_length=100)] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> public.RunPage:
    """Runs, newest first."""
    query = views.run_query().order_by(Run.id.desc()).limit(limit + 1)
    if state:
        query = query.where(Run.state.in_(state))
    if experiment:
        linked = select(ExperimentRun.run_id).where(ExperimentRun.experiment_id == find(session, experiment).id)
        query = query.where(Run.id.in_(linked))
    if method:
        query = query.where(Run.method == method.replace("\0", ""))
    if cursor:
        query = query.where(Run.id < decode_cursor(cursor))
    items = views.run_summaries(session, query)
    more = len(items) > limit
    return public.RunPage(items=items[:limit], next_cursor=encode_cursor(items[limit - 1].id) if more else None)


@router.get("/{run_id}", dependencies=[reads])
def run(run_id: str, session: SessionDep) -> public.Run:
    """A run with its spec, attempts and environment."""
    found = views.whole_run(session, run_id.replace("\0", ""))
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
        lifecycle.cancel_one(session, run_id.replace("\0", ""), now(session))
    return _whole(database, run_id)


@router.post("/{run_id}/pause", dependencies=[submits])
def pause(run_id: str, database: DatabaseDep) -> public.Run:
    """Pause a run. One that trains is `pausing` until its worker has handed it back with a checkpoint.

    Nothing changes where it has ended or is being cancelled.
    """
    with database.write() as session:
        pausing.pause(session, run_id.replace("\0", ""))
    return _whole(database, run_id)


@router.post("/{run_id}/resume", dependencies=[submits])
def resume(run_id: str, database: DatabaseDep, nudger: NudgerDep, tasks: BackgroundTasks) -> public.Run:
    """Let a paused run go on, from its checkpoint, and its teacher with it. Nothing changes where it is not paused."""
    with database.write() as session:
        pausing.resume(session, run_id.replace("\0", ""), now(session))
    tasks.add_task(send_nudges, database, nudger)
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
        lifecycle.set_priority(session, run_id.replace("\0", ""), change.priority)
    return _whole(database, run_id)


@router.post(
    "/{run_id}/retry",
    dependencies=[submits],
    responses={409: {"description": "It has succeeded, or is being cancelled"}},
)
def retry(run_id: str, database: DatabaseDep, nudger: NudgerDep, tasks: BackgroundTasks) -> public.Run:
    """Put a failed or cancelled run back in the queue, with its last checkpoint, and its teacher with it if need be.

    Nothing changes where it is queued or running already; 409 where it succeeded or is being cancelled.
    """
    with database.write() as session:
        lifecycle.retry(session, run_id.replace("\0", ""), now(session))
    tasks.add_task(send_nudges, database, nudger)
    return _whole(database, run_id)


def _whole(database: Database, run_id: str) -> public.Run:
    with database.read() as session:
        found = views.whole_run(session, run_id)
    if found is None:
        raise not_found("run", run_id)
    return found
