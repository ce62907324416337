"""Experiments: list, look at, cancel, pause, put before others, tag, archive, delete. ``submissions`` makes them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Query
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.api.boundary import BoundedRoute
from backend.api.dependencies import DatabaseDep, SessionDep, StoreDep, WakerDep, reads, submits
from backend.db import Database, now
from backend.db.models import Experiment
from backend.errors import not_found
from backend.experiments import experiment_edits, list_queries, serializers
from backend.queue import lifecycle, pausing
from core.protocol import public
from core.protocol.submissions import ExperimentChange
from core.specs.text_rules import normal

router = APIRouter(prefix="/experiments", tags=["experiments"], route_class=BoundedRoute)


@router.get("", dependencies=[reads])
def experiments(session: SessionDep, kept: Annotated[list_queries.ExperimentQuery, Query()]) -> public.ExperimentPage:
    """Experiments, newest first unless asked otherwise."""
    return list_queries.experiment_page(session, kept)


# ``:path``, since a name may hold a slash.
@router.get("/{key:path}", dependencies=[reads])
def experiment(key: str, session: SessionDep) -> public.Experiment:
    """An experiment with its runs, by its id or its name."""
    return serializers.whole_experiment(session.connection(), find(session, key))


@router.post("/{key:path}/cancel", dependencies=[submits])
def cancel(key: str, database: DatabaseDep) -> public.Experiment:
    """Cancel every run that has not ended; a teacher only where no other experiment needs it. Repeating is harmless."""
    with database.write() as session:
        experiment_id = find(session, key).id
        lifecycle.cancel_experiment(session, experiment_id, now(session))
    return whole(database, experiment_id)


@router.post("/{key:path}/pause", dependencies=[submits])
def pause(key: str, database: DatabaseDep) -> public.Experiment:
    """Pause every run that has not ended; a teacher only where no other experiment waits for it.

    Runs that train are `pausing` until their workers have handed them back with a checkpoint. Repeating is harmless.
    """
    with database.write() as session:
        experiment_id = find(session, key).id
        pausing.pause_experiment(session, experiment_id)
    return whole(database, experiment_id)


@router.post("/{key:path}/resume", dependencies=[submits])
def resume(key: str, database: DatabaseDep, waker: WakerDep) -> public.Experiment:
    """Let every paused run go on, from its checkpoint. Repeating is harmless."""
    with database.write() as session:
        experiment_id = find(session, key).id
        pausing.resume_experiment(session, experiment_id, now(session))
    waker.wake()
    return whole(database, experiment_id)


@router.post("/{key:path}/priority", dependencies=[submits])
def priority(key: str, change: public.PriorityChange, database: DatabaseDep) -> public.Experiment:
    """Change the priority of every run that has not ended.

    A teacher that other experiments wait for too keeps the highest among them.
    """
    with database.write() as session:
        experiment_id = find(session, key).id
        lifecycle.set_experiment_priority(session, experiment_id, change.priority)
    return whole(database, experiment_id)


@router.patch("/{key:path}", dependencies=[submits])
def change(key: str, wanted: ExperimentChange, database: DatabaseDep) -> public.Experiment:
    """Change an experiment's tags and notes. Its spec stays as it was submitted."""
    with database.write() as session:
        found = find(session, key)
        experiment_edits.change(session, found, wanted)
    return whole(database, found.id)


@router.post("/{key:path}/archive", dependencies=[submits])
def archive(key: str, database: DatabaseDep) -> public.Experiment:
    """Leave an experiment and its runs out of lists; its runs go on. Repeating is harmless."""
    with database.write() as session:
        found = find(session, key)
        found.archived_at = found.archived_at or now(session)
    return whole(database, found.id)


@router.post("/{key:path}/unarchive", dependencies=[submits])
def unarchive(key: str, database: DatabaseDep) -> public.Experiment:
    """Show an archived experiment in lists again. Repeating is harmless."""
    with database.write() as session:
        found = find(session, key)
        found.archived_at = None
    return whole(database, found.id)


@router.delete(
    "/{key:path}",
    status_code=204,
    dependencies=[submits],
    responses={409: {"description": "A run of it has not ended"}},
)
def delete(key: str, database: DatabaseDep, store: StoreDep, tasks: BackgroundTasks) -> None:
    """Delete an experiment with its runs, their metrics, logs and files. It cannot be had back.

    409 while one of its runs has not ended. A teacher that other experiments use stays, with all that is its own.
    """
    with database.write() as session:
        gone = experiment_edits.delete_experiment(session, find(session, key))
    tasks.add_task(store.remove_runs, gone)


def whole(database: Database, experiment_id: str) -> public.Experiment:
    """What the answer to a change shows."""
    # After the commit: reading thousands of runs would hold SQLite's one writer up.
    with database.read() as session:
        connection = session.connection()
        return serializers.whole_experiment(connection, serializers.experiment_of_id(connection, experiment_id))


def find(session: Session, key: str) -> Experiment:
    """An experiment by its id, else by its name. Raises ApiError 404."""
    # Names of older versions are as they were typed, those of today in Unicode's normal form.
    names = dict.fromkeys((key, normal(key)))
    found = (
        session.get(Experiment, key) or session.scalars(select(Experiment).where(Experiment.name.in_(names))).first()
    )
    if found is None:
        raise not_found("experiment", key)
    return found
