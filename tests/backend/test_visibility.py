"""Statements of a person are limited to the projects that the person sees."""

from __future__ import annotations

import pytest
from sqlalchemy import func, insert, literal_column, select, text

from backend.db import Database, models, now
from backend.db.visibility import visible_projects
from tests.backend import rows


def _two_projects(database: Database) -> None:
    key = rows.experiment(database, name="one", seeds=[0])
    other = rows.experiment(database, name="two", teacher=None, methods=["ce"])  # without the teacher of the first
    with database.write() as session:
        session.get_one(models.Experiment, other).project = "b"
        session.add(
            models.Person(id="p", name="anna", created_at=now(session)),
        )
    assert key != other


def test_every_kind_of_statement_is_limited(database: Database) -> None:
    """Statements of the ORM and of Core, counts, subqueries, outer joins and aliases see the same rows."""
    _two_projects(database)
    token = visible_projects.set(frozenset(("b",)))
    try:
        with database.read() as session:
            run, experiment = models.Run, models.Experiment
            assert [item.name for item in session.scalars(select(experiment))] == ["two"]
            inner = select(run.experiment_id, func.count().label("runs")).group_by(run.experiment_id).subquery()
            assert session.execute(select(func.count()).select_from(inner)).scalar_one() == 1
            table = models.Base.metadata.tables["experiments"]
            assert session.connection().execute(select(table.c.name)).scalars().all() == ["two"]
            assert session.execute(text("SELECT count(*) FROM experiments")).scalar_one() == 1
            owners = select(run.id, experiment.name).outerjoin(experiment, experiment.id == run.experiment_id)
            assert {name for _, name in session.execute(owners)} == {"two"}
            linked = select(models.ExperimentRun.run_id).union(select(run.id))
            assert len(session.execute(linked).all()) == session.execute(select(func.count(run.id))).scalar_one()
            assert session.execute(select(literal_column("1"))).scalar_one() == 1
            with pytest.raises(RuntimeError, match="cannot run this statement"):
                session.execute(select(select(run.id).cte()))
            with pytest.raises(RuntimeError, match="cannot run this statement"):
                session.execute(insert(models.ExperimentTag).values(experiment_id="x", tag="y"))
        with database.write() as session:
            assert session.scalar(select(func.count()).select_from(experiment)) == 2, "writers see everything"
    finally:
        visible_projects.reset(token)


def test_project_names_cannot_leave_their_quotes(database: Database) -> None:
    token = visible_projects.set(frozenset(("b') --",)))
    try:
        with database.read() as session, pytest.raises(RuntimeError, match="cannot run this statement"):
            session.scalars(select(models.Experiment)).all()
    finally:
        visible_projects.reset(token)
