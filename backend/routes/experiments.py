"""Experiments: list, read, cancel, pause, prioritize, tag, archive, delete. ``submissions`` creates them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Query
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend import audit
from backend.api.boundary import BoundedRoute
from backend.api.dependencies import DatabaseDep, NudgesDep, SessionDep, StoreDep, reads, submits
from backend.db import Database, now
from backend.db.models import Experiment
from backend.errors import not_found
from backend.experiments import experiment_edits, list_queries, serializers
from backend.people import rights
from backend.queue import lifecycle, pausing
from core.protocol import public
from core.protocol.submissions import ExperimentEdit
from core.specs.text_rules import normal

router = APIRouter(prefix="/experiments", tags=["experiments"], route_class=BoundedRoute)


@router.get("", dependencies=[reads])
def experiments(session: SessionDep, query: Annotated[list_queries.ExperimentQuery, Query()]) -> public.ExperimentPage:
    """List experiments, newest first by default."""
    return list_queries.experiment_page(session, query)


# ``:path``, because a name may contain a slash.
@router.get("/{key:path}", dependencies=[reads])
def experiment(key: str, session: SessionDep) -> public.Experiment:
    """Read an experiment with its runs, by its id or its name."""
    return serializers.full_experiment(session.connection(), find(session, key))


@router.post("/{key:path}/cancel", dependencies=[submits])
def cancel(key: str, database: DatabaseDep) -> public.Experiment:
    """Cancel every run that has not ended, but a teacher only if no other experiment needs it.

    Repeating the request has no effect.
    """
    with database.write() as session:
        experiment_id = find(session, key).id
        lifecycle.cancel_experiment(session, experiment_id, now(session))
    return changed_experiment(database, experiment_id)


@router.post("/{key:path}/pause", dependencies=[submits])
def pause(key: str, database: DatabaseDep) -> public.Experiment:
    """Pause every run that has not ended, but a teacher only if no other experiment waits for it.

    A training run is `pausing` until its worker has returned it to the queue with a checkpoint. Repeating the request
    has no effect.
    """
    with database.write() as session:
        experiment_id = find(session, key).id
        pausing.pause_experiment(session, experiment_id)
    return changed_experiment(database, experiment_id)


@router.post(
    "/{key:path}/resume", dependencies=[submits], responses={409: {"description": "The experiment is archived"}}
)
def resume(key: str, database: DatabaseDep, nudges: NudgesDep) -> public.Experiment:
    """Resume every paused run from its checkpoint. Repeating the request has no effect."""
    with database.write() as session:
        experiment = find(session, key)
        experiment_id = experiment.id
        pausing.resume_experiment(session, experiment, now(session))
    nudges.request()
    return changed_experiment(database, experiment_id)


@router.post("/{key:path}/priority", dependencies=[submits])
def priority(key: str, change: public.PriorityChange, database: DatabaseDep) -> public.Experiment:
    """Change the priority of every run that has not ended.

    A teacher that other experiments also wait for keeps the highest priority among them.
    """
    with database.write() as session:
        experiment_id = find(session, key).id
        audit.note(priority=change.priority)
        lifecycle.set_experiment_priority(session, experiment_id, change.priority)
    return changed_experiment(database, experiment_id)


@router.patch(
    "/{key:path}",
    dependencies=[submits],
    responses={409: {"description": "The project that it is moved to is archived"}},
)
def change(key: str, changes: ExperimentEdit, database: DatabaseDep) -> public.Experiment:
    """Change an experiment's tags, notes, parent and project. Its spec stays as it was submitted.

    A person moves an experiment only between projects in which the person may submit.
    """
    with database.write() as session:
        experiment = find(session, key)
        experiment_edits.change(session, experiment, changes)
        if changes.parent is not None:
            parent = find(session, changes.parent) if changes.parent else None
            experiment_edits.set_parent(session, experiment, parent)
        changed = changes.model_dump(exclude_unset=True, exclude={"project"})
        audit.about("experiment", experiment.id, project=experiment.project, name=experiment.name, **changed)
        if changes.project is not None:
            experiment_edits.move(session, experiment, changes.project)
    return changed_experiment(database, experiment.id)


@router.post("/{key:path}/archive", dependencies=[submits])
def archive(key: str, database: DatabaseDep) -> public.Experiment:
    """Hide an experiment and its runs from lists; its runs continue. Repeating has no effect."""
    with database.write() as session:
        experiment = find(session, key)
        experiment.archived_at = experiment.archived_at or now(session)
    return changed_experiment(database, experiment.id)


@router.post("/{key:path}/unarchive", dependencies=[submits])
def unarchive(key: str, database: DatabaseDep) -> public.Experiment:
    """Show an archived experiment in lists again. Repeating has no effect."""
    with database.write() as session:
        experiment = find(session, key)
        experiment.archived_at = None
    return changed_experiment(database, experiment.id)


@router.delete(
    "/{key:path}",
    status_code=204,
    dependencies=[submits],
    responses={409: {"description": "One of its runs has not ended"}},
)
def delete(key: str, database: DatabaseDep, store: StoreDep, tasks: BackgroundTasks) -> None:
    """Delete an experiment with its runs, their metrics, logs and files. Deletion is final.

    409 if one of its runs has not ended. A teacher that other experiments use is kept with its metrics, logs and files.
    """
    with database.write() as session:
        deleted = experiment_edits.delete_experiment(session, find(session, key))
    tasks.add_task(store.remove_runs, deleted)


def changed_experiment(database: Database, experiment_id: str) -> public.Experiment:
    """Return the experiment with its runs, as the answer to a request that has changed it."""
    # Read after the commit: reading thousands of runs would block SQLite's one writer.
    with database.read() as session:
        connection = session.connection()
        return serializers.full_experiment(connection, serializers.experiment_row(connection, experiment_id))


def find(session: Session, key: str) -> Experiment:
    """Return an experiment by its id, or else by its name.

    Raises:
        ApiError: 404 if there is no such experiment.
    """
    # Older versions stored names as they were typed; today they are stored in Unicode normal form.
    names = dict.fromkeys((key, normal(key)))
    by_name = select(Experiment).where(Experiment.name.in_(names))
    experiment = session.get(Experiment, key) or session.scalars(by_name).first()
    if experiment is None or not rights.sees(experiment.project):
        raise not_found("experiment", key)
    audit.about("experiment", experiment.id, project=experiment.project, name=experiment.name)
    return experiment
