"""The headline metric of a run, in SQL: that of the task which its data set is for.

A run that was measured on held-out images (``evaluate: validation``) has no result on the test images, and is judged by
the same metric on the held-out ones. Which of the two a run has is read from its metrics and not from its spec, which
lists do not load.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

from sqlalchemy import ColumnElement, ScalarSelect, and_, case, literal, select
from sqlalchemy.orm import aliased

from backend.db.models import MetricLatest, MetricName, Run
from core.catalog import DATASETS, TASKS
from core.catalog.datasets import task_of

_Images = Literal["headline", "validation"]
"""The field of a task which names the metric: on the test images, or on held-out ones."""

ON_TEST, ON_HELD_OUT = aliased(MetricLatest, name="on_test"), aliased(MetricLatest, name="on_held_out")
"""Newest values of the headline metric, for an outer join on ``joins()``."""
_LATEST: tuple[tuple[Any, _Images], ...] = ((ON_TEST, "headline"), (ON_HELD_OUT, "validation"))


def joins() -> list[tuple[Any, ColumnElement[bool]]]:
    """Return both tables of newest values, each with the condition of its outer join to ``Run``."""
    # A step below 0 is of a row without a value: see ``backend.metrics.point_store.HAS_VALUE``.
    return [
        (latest, and_(latest.run_id == Run.id, latest.name_id == _name_id(images), latest.step >= 0))
        for latest, images in _LATEST
    ]


def value() -> ColumnElement[float | None]:
    """Return the newest finite value of the headline metric, in a query with ``joins()``."""
    return case((ON_TEST.run_id.is_not(None), ON_TEST.value), else_=ON_HELD_OUT.value)


def headline(dataset: str, measured: Collection[str]) -> str:
    """Return the metric that a run is judged by: on the test images, unless it was measured on held-out ones alone.

    Args:
        dataset: Name of its data set.
        measured: Names of metrics that it has reported.
    """
    task = task_of(dataset)
    return of_task(dataset, held_out=task.validation in measured and task.headline not in measured)


def of_task(dataset: str, *, held_out: bool) -> str:
    """Return the headline metric of a data set's task, on the test images or on held-out ones."""
    task = task_of(dataset)
    return task.validation if held_out else task.headline


def all_headlines() -> list[str]:
    """Return the headline metrics of all tasks, on the test images and on held-out ones."""
    return sorted({name for task in TASKS for name in (task.headline, task.validation)})


def _name_id(images: _Images) -> ScalarSelect[Any]:
    """Return the id of the metric's name, for the run of the enclosing query; NULL before any was reported.

    While all data sets have one headline metric, the condition does not depend on the run, and the database can read
    its id once.
    """
    # A data set of a plug-in that is no longer loaded has the default.
    default = getattr(task_of(""), images)
    names = {entry.name: getattr(task_of(entry.name), images) for entry in DATASETS}
    others = {dataset: name for dataset, name in names.items() if name != default}
    name: ColumnElement[str] = case(others, value=Run.dataset, else_=default) if others else literal(default)
    query = select(MetricName.id).where(MetricName.name == name)
    return (query.correlate(Run) if others else query).scalar_subquery()
