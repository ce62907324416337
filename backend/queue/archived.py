"""Archived runs, which lists do not show: no work of theirs is started until an experiment of theirs is unarchived."""

from __future__ import annotations

from sqlalchemy import ColumnElement, and_, exists, select
from sqlalchemy.orm import Session, aliased

from backend.db.models import Experiment, ExperimentRun, Run
from backend.errors import conflict


def is_shown() -> ColumnElement[bool]:
    """Return the condition for runs that an experiment uses which is not archived."""
    link, user = aliased(ExperimentRun), aliased(Experiment)
    return exists().where(link.run_id == Run.id, link.experiment_id == user.id, user.archived_at.is_(None))


def is_archived() -> ColumnElement[bool]:
    """Return the condition for runs all of whose experiments are archived."""
    link = aliased(ExperimentRun)
    return and_(exists().where(link.run_id == Run.id), ~is_shown())


def refuse_archived(session: Session, run_id: str) -> None:
    """Refuse to start the work of an archived run.

    Raises:
        ApiError: 409 if every experiment that uses the run is archived.
    """
    archived = (
        select(Experiment.name)
        .join(ExperimentRun, ExperimentRun.experiment_id == Experiment.id)
        .join(Run, Run.id == ExperimentRun.run_id)
        .where(Run.id == run_id, is_archived())
    )
    name = session.scalars(archived.limit(1)).first()
    if name is not None:
        raise conflict(f"the experiment {name} is archived; unarchive it first")
