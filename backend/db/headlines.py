"""The headline metric of a run, in SQL: that of the task which its data set is for."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, ScalarSelect, case, literal, select

from backend.db.models import MetricName, Run
from core.catalog import DATASETS, TASKS
from core.catalog.datasets import headline_of


def headline_id() -> ScalarSelect[Any]:
    """Return the id of the headline metric's name, for the run of the enclosing query; NULL before any was reported.

    While all data sets have one headline metric, the condition does not depend on the run, and the database can read
    its id once.
    """
    # A data set of a plug-in that is no longer loaded has the default.
    default = headline_of("")
    others = {entry.name: headline_of(entry.name) for entry in DATASETS if headline_of(entry.name) != default}
    name: ColumnElement[str] = case(others, value=Run.dataset, else_=default) if others else literal(default)
    query = select(MetricName.id).where(MetricName.name == name)
    return (query.correlate(Run) if others else query).scalar_subquery()


def all_headlines() -> list[str]:
    """Return the headline metrics of all tasks, on the test images and on held-out ones."""
    return sorted({name for task in TASKS for name in (task.headline, task.validation)})
