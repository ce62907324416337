"""Queries for lists of experiments and runs: filters, order and pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from sqlalchemy import ColumnElement, and_, exists, func, literal, not_, or_, select
from sqlalchemy.orm import Session

from backend.api.pagination import SortOrder
from backend.db import UtcDateTime, headlines
from backend.db.models import Experiment, ExperimentRun, ExperimentTag, Run
from backend.experiments import serializers
from backend.queue.teacher_links import students_of
from core.protocol.people import ProjectName
from core.protocol.public import TERMINAL, ExperimentPage, RunPage, RunState

_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_BY_HEADLINE = ("headline", "top1")
"""Sort orders by the headline metric: the second is the former name of the first."""

Archived = Literal["exclude", "only", "include"]
RunSort = Literal[
    "-created",
    "created",
    "-started",
    "started",
    "-ended",
    "ended",
    "-priority",
    "priority",
    "-headline",
    "headline",
    "-top1",
    "top1",
]
ExperimentSort = Literal["-created", "created", "name", "-name"]
ExperimentState = Literal["active", "finished", "failed", "cancelled"]


def _as_utc(time: datetime) -> datetime:
    """Convert a time to UTC; a time without a zone is in UTC."""
    try:
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except OverflowError:
        raise ValueError("is beyond the calendar") from None


Names = Annotated[list[Annotated[str, Field(max_length=100)]] | None, Field(max_length=50)]
UtcTime = Annotated[datetime, AfterValidator(_as_utc)]


class _ListQuery(BaseModel):
    """Filters and order of both lists. An item matches every given field, by any of its values; tags must all match."""

    model_config = ConfigDict(frozen=True)

    method: Names = Field(None, description="Names of methods: any of these, alone or combined with others.")
    dataset: Names = Field(None, description="Names of data sets: any of these.")
    model: Names = Field(None, description="Names of networks, also of teachers: any of these.")
    tag: Names = Field(None, description="Tags of the experiment: all of these.")
    text: str | None = Field(
        None,
        max_length=100,
        description="Part of the name, ignoring case; for runs also of the label, model, data set or reason.",
    )
    submitted_by: str | None = Field(
        None, max_length=100, description="Name of the token that submitted the experiment."
    )
    sweep: str | None = Field(None, max_length=100, description="Name of the sweep.")
    project: list[ProjectName] | None = Field(None, max_length=50, description="Names of projects: any of these.")
    created_after: UtcTime | None = Field(None, description="Created at this time or later.")
    created_before: UtcTime | None = Field(None, description="Created before this time.")
    archived: Archived = Field("exclude", description="Whether archived experiments are listed.")
    count: bool = Field(False, description="Return the number of items on all pages as `total`.")
    cursor: str | None = Field(None, max_length=2000, description="`next_cursor` of the previous page.")
    limit: int = Field(50, ge=1, le=500, description="Items per page.")


class RunQuery(_ListQuery):
    """Filters and order of a list of runs."""

    state: list[RunState] | None = Field(None, max_length=20, description="Any of these.")
    role: Literal["teacher", "student"] | None = Field(None, description="By default both.")
    id: list[Annotated[str, Field(max_length=16)]] | None = Field(None, max_length=500, description="Any of these.")
    teacher: str | None = Field(None, max_length=16, description="Run id of a teacher, to list its students.")
    experiment: str | None = Field(
        None, max_length=100, description="Id or name of an experiment, which may be archived."
    )
    sort: RunSort = Field(
        "-created",
        description="With - in descending order: the greatest or newest first. `headline` sorts each run by the "
        "metric that its task is judged by, such as test/top1, or val/top1 if it was measured on held-out images; "
        "`top1` is its former name.",
    )


class ExperimentQuery(_ListQuery):
    """Filters and order of a list of experiments."""

    state: list[ExperimentState] | None = Field(None, max_length=20, description="Any of these.")
    parent: str | None = Field(None, max_length=16, description="Id of an experiment, to list its copies.")
    sort: ExperimentSort = Field("-created", description="With - in descending order: the greatest or newest first.")


@dataclass(frozen=True)
class _SortKey:
    """A sort key of runs.

    Attributes:
        expression: The expression to sort by; None for the id.
        kind: Type of its values.
    """

    expression: ColumnElement[Any] | None
    kind: type[str | int | float | datetime] = field(default=str)


def run_page(session: Session, filters: RunQuery, experiment: Experiment | None) -> RunPage:
    """Return a page of runs; only those of ``experiment`` if it is given."""
    sort, limit = filters.sort, filters.limit
    key = _run_sort_key(sort.removeprefix("-"))
    order = SortOrder(sort, key.expression, Run.id.expression, key.kind, sort.startswith("-"))
    # The first query reads only ids, from indexes that include the sort keys; the second reads the rows of this page.
    query = select(Run.id, literal(None) if key.expression is None else key.expression).select_from(Run)
    query = query.outerjoin(Experiment, Experiment.id == Run.experiment_id)
    if sort.endswith(_BY_HEADLINE):
        for latest, condition in headlines.joins():
            query = query.outerjoin(latest, condition)
    conditions = _run_conditions(filters)
    if experiment is not None:
        linked = select(ExperimentRun.run_id).where(ExperimentRun.experiment_id == experiment.id)
        conditions.append(Run.id.in_(linked))
    else:
        conditions += _archive_conditions(filters.archived)
    total = None
    if filters.count:
        matching = select(func.count()).select_from(Run).outerjoin(Experiment, Experiment.id == Run.experiment_id)
        total = session.scalars(matching.where(*conditions)).one()
    connection = session.connection()
    rows = connection.execute(order.apply(query.where(*conditions), filters.cursor).limit(limit + 1)).all()
    page_ids = [run_id for run_id, _ in rows[:limit]]
    items = {
        item.id: item for item in serializers.run_summaries(connection, serializers.rows_of_runs(connection, page_ids))
    }
    more = len(rows) > limit
    return RunPage(
        items=[items[run_id] for run_id in page_ids if run_id in items],  # a run may have been deleted meanwhile
        next_cursor=order.cursor(*reversed(rows[limit - 1])) if more else None,
        total=total,
    )


def experiment_page(session: Session, filters: ExperimentQuery) -> ExperimentPage:
    """Return a page of experiments."""
    sort, limit = filters.sort, filters.limit
    sort_expression = Experiment.name.expression if sort.endswith("name") else None
    order = SortOrder(sort, sort_expression, Experiment.id.expression, str, sort.startswith("-"))
    conditions = _experiment_conditions(filters) + _archive_conditions(filters.archived)
    rows = list(session.scalars(order.apply(select(Experiment).where(*conditions), filters.cursor).limit(limit + 1)))
    more = len(rows) > limit
    last = rows[limit - 1] if more else None
    total = None
    if filters.count:
        total = session.scalars(select(func.count()).select_from(Experiment).where(*conditions)).one()
    return ExperimentPage(
        items=serializers.experiment_summaries(session, rows[:limit]),
        next_cursor=order.cursor(last.name if sort_expression is not None else None, last.id) if last else None,
        total=total,
    )


def _run_sort_key(name: str) -> _SortKey:
    if name == "created":
        return _SortKey(None)  # ids are in the order of creation
    if name == "priority":
        return _SortKey(Run.priority.expression, int)
    if name in _BY_HEADLINE:  # runs without a value are below every accuracy
        return _SortKey(func.coalesce(headlines.value(), -1.0), float)
    column = Run.started_at if name == "started" else Run.ended_at
    return _SortKey(func.coalesce(column, literal(_EARLIEST, UtcDateTime()), type_=UtcDateTime()), datetime)


def _archive_conditions(archived: Archived) -> list[ColumnElement[bool]]:
    if archived == "include":
        return []
    return [Experiment.archived_at.is_(None) if archived == "exclude" else Experiment.archived_at.is_not(None)]


def _run_conditions(filters: RunQuery) -> list[ColumnElement[bool]]:
    conditions = _spec_conditions(filters)
    if filters.state:
        conditions.append(Run.state.in_(filters.state))
    if filters.id:
        conditions.append(Run.id.in_(filters.id))
    if filters.teacher:
        conditions.append(students_of(filters.teacher))
    if filters.role:
        conditions.append(Run.role == filters.role)
    if filters.text:
        text = filters.text
        columns = (Experiment.name, Run.label, Run.model, Run.dataset, Run.reason)
        conditions.append(or_(*(column.icontains(text, autoescape=True) for column in columns)))
    for tag in filters.tag or ():
        tagged = select(ExperimentRun.run_id).join(
            ExperimentTag, ExperimentTag.experiment_id == ExperimentRun.experiment_id
        )
        conditions.append(Run.id.in_(tagged.where(ExperimentTag.tag == tag)))
    if filters.submitted_by:
        conditions.append(Experiment.submitted_by == filters.submitted_by)
    if filters.sweep:
        conditions.append(Experiment.sweep == filters.sweep)
    if filters.project:
        linked = select(ExperimentRun.run_id).join(Experiment, Experiment.id == ExperimentRun.experiment_id)
        conditions.append(Run.id.in_(linked.where(Experiment.project.in_(filters.project))))
    return conditions + _creation_conditions(filters, Run.created_at.expression)


def _experiment_conditions(filters: ExperimentQuery) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [_has_run(condition) for condition in _spec_conditions(filters)]
    if filters.state:
        has_run = {
            name: _has_run(condition)
            for name, condition in (
                ("live", Run.state.not_in(TERMINAL)),
                ("failed", Run.state == "failed"),
                ("cancelled", Run.state == "cancelled"),
            )
        }
        active = or_(has_run["live"], Experiment.seeds_open.is_(True))
        ended = not_(active)
        conditions_by_state = {
            "active": active,
            "failed": and_(ended, has_run["failed"]),
            "cancelled": and_(ended, not_(has_run["failed"]), has_run["cancelled"]),
            "finished": and_(ended, not_(has_run["failed"]), not_(has_run["cancelled"])),
        }
        conditions.append(or_(*(conditions_by_state[state] for state in filters.state)))
    if filters.text:
        conditions.append(Experiment.name.icontains(filters.text, autoescape=True))
    for tag in filters.tag or ():
        tagged = select(ExperimentTag.experiment_id).where(ExperimentTag.tag == tag)
        conditions.append(Experiment.id.in_(tagged))
    if filters.submitted_by:
        conditions.append(Experiment.submitted_by == filters.submitted_by)
    if filters.sweep:
        conditions.append(Experiment.sweep == filters.sweep)
    if filters.project:
        conditions.append(Experiment.project.in_(filters.project))
    if filters.parent:
        conditions.append(Experiment.parent_id == filters.parent)
    return conditions + _creation_conditions(filters, Experiment.created_at.expression)


def _has_run(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    """Return whether a run that the experiment uses satisfies the condition."""
    return exists().where(ExperimentRun.experiment_id == Experiment.id, Run.id == ExperimentRun.run_id, condition)


def _spec_conditions(filters: _ListQuery) -> list[ColumnElement[bool]]:
    columns: Sequence[tuple[Any, list[str] | None]] = ((Run.dataset, filters.dataset), (Run.model, filters.model))
    conditions: list[ColumnElement[bool]] = [column.in_(names) for column, names in columns if names]
    if filters.method:
        # A method with others that are added to it is stored as their names, joined: crd+kd.
        members = literal("+").concat(Run.method).concat(literal("+"))
        conditions.append(or_(*(members.contains(f"+{name}+", autoescape=True) for name in filters.method)))
    return conditions


def _creation_conditions(filters: _ListQuery, column: ColumnElement[datetime]) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if filters.created_after:
        conditions.append(column >= filters.created_after)
    if filters.created_before:
        conditions.append(column < filters.created_before)
    return conditions
