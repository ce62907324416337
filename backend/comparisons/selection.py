"""Selects the experiments of reports over many experiments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db import models
from backend.errors import invalid
from core.protocol.public import ProblemField
from core.specs import student_title, teacher_model, teacher_title

MAX_EXPERIMENTS = 500


@dataclass(frozen=True)
class Filter:
    """Selects experiments; a filter that is None or empty selects all.

    Attributes:
        tags: Present tags; an experiment needs every one of them.
        dataset: Name of the data set in the catalog.
        student: Name of the student's model in the catalog.
        teacher: Name of the teacher's model in the catalog.
        sweep: Name of the sweep.
    """

    tags: Sequence[str] = ()
    dataset: str | None = None
    student: str | None = None
    teacher: str | None = None
    sweep: str | None = None

    def accepts(self, dataset: str, teacher: str, student: str) -> bool:
        """Return whether it selects experiments with these names; ``teacher`` is empty without one."""
        wanted = ((self.dataset, dataset), (self.teacher, teacher), (self.student, student))
        return all(name is None or name == value for name, value in wanted)


def names_of(spec: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the names of data set, teacher and student; that of the teacher is empty without one."""
    teacher = teacher_model(spec) or ""
    return (spec["dataset"]["name"], teacher, spec["student"]["model"]["name"])


def titles_of(spec: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the name of the data set and the titles of teacher and student; that of the teacher may be empty."""
    return (spec["dataset"]["name"], teacher_title(spec) or "", student_title(spec))


def tagged(session: Session, tags: Sequence[str]) -> list[models.Experiment]:
    """Return all experiments with these tags that are not archived, oldest first."""
    query = select(models.Experiment).order_by(models.Experiment.id).where(models.Experiment.archived_at.is_(None))
    return list(session.scalars(_with_tags(query, tags)))


def find(
    session: Session, selection: Filter, candidates: Sequence[models.Experiment] | None = None
) -> list[models.Experiment]:
    """Return the experiments that the filter selects.

    Args:
        session: Session for reading.
        selection: The filter.
        candidates: Experiments to select from, whose order is kept. None selects from all experiments that are not
            archived, oldest first.

    Raises:
        ApiError: 422 if there are too many for one table.
    """
    if candidates is None:
        experiments = tagged(session, selection.tags)
    else:
        ids = set(session.scalars(_with_tags(select(models.Experiment.id), selection.tags)))
        experiments = [item for item in candidates if item.id in ids]
    in_sweep = (item for item in experiments if selection.sweep in (None, item.sweep))
    experiments = [item for item in in_sweep if selection.accepts(*names_of(item.spec))]
    if len(experiments) > MAX_EXPERIMENTS:
        text = f"a table has at most {MAX_EXPERIMENTS} experiments, and {len(experiments)} match; select by tag or name"
        raise invalid(text, ProblemField(path="tag", message=text))
    return experiments


def _with_tags(query: Any, tags: Sequence[str]) -> Any:
    for tag in tags:  # present tags; the spec has those that it was submitted with
        with_tag = select(models.ExperimentTag.experiment_id).where(models.ExperimentTag.tag == tag)
        query = query.where(models.Experiment.id.in_(with_tag))
    return query
