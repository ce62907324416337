"""Which experiments and runs a list shows, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from sqlalchemy import ColumnElement, and_, exists, func, literal, not_, or_, select
from sqlalchemy.orm import Session

from backend.api.pagination import SortOrder
from backend.db import UtcDateTime
from backend.db.models import Experiment, ExperimentRun, ExperimentTag, MetricLatest, MetricName, Run
from backend.experiments import serializers
from core.protocol.public import TERMINAL, ExperimentPage, RunPage, RunState

_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_TOP1 = "test/top1"

Archived = Literal["exclude", "only", "include"]
RunSort = Literal[
    "-created", "created", "-started", "started", "-ended", "ended", "-priority", "priority", "-top1", "top1"
]
ExperimentSort = Literal["-created", "created", "name", "-name"]
ExperimentState = Literal["active", "finished", "failed", "cancelled"]


def _utc(moment: datetime) -> datetime:
    """A moment without a zone is in UTC. Raises ValueError for one beyond the calendar in UTC."""
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("is beyond the calendar") from None


Names = Annotated[list[Annotated[str, Field(max_length=100)]] | None, Field(max_length=50)]
Moment = Annotated[datetime, AfterValidator(_utc)]


class _Query(BaseModel):
    """What both lists are kept by and ordered. Every field narrows; the values of one field widen, but for tags."""

    model_config = ConfigDict(frozen=True)

    method: Names = Field(None, description="The method's name. Any of these.")
    dataset: Names = Field(None, description="The data set's name. Any of these.")
    model: Names = Field(None, description="The network's name, a teacher's too. Any of these.")
    tag: Names = Field(None, description="Tags of the experiment: all of these.")
    text: str | None = Field(
        None,
        max_length=100,
        description="Part of a name, whatever its case; of a run, also of its label, model, data set or reason.",
    )
    submitted_by: str | None = Field(None, max_length=100, description="Name of the token.")
    sweep: str | None = Field(None, max_length=100, description="Name of the sweep.")
    created_after: Moment | None = Field(None, description="That moment or later.")
    created_before: Moment | None = Field(None, description="Before that moment.")
    archived: Archived = Field("exclude", description="What was archived is left out of lists.")
    count: bool = Field(False, description="Say how many there are on all pages together, as `total`.")
    cursor: str | None = Field(None, max_length=2000, description="`next_cursor` of the page before.")
    limit: int = Field(50, ge=1, le=500, description="How many to a page.")


class RunQuery(_Query):
    """Which runs, in which order."""

    state: list[RunState] | None = Field(None, max_length=20, description="Any of these.")
    role: Literal["teacher", "student"] | None = Field(None, description="Left out, both.")
    id: list[Annotated[str, Field(max_length=16)]] | None = Field(None, max_length=500, description="Any of these.")
    teacher: str | None = Field(None, max_length=16, description="Run id of a teacher: its students.")
    experiment: str | None = Field(None, max_length=100, description="Id or name; also an archived one.")
    sort: RunSort = Field("-created", description="With - the greatest or newest first.")


class ExperimentQuery(_Query):
    """Which experiments, in which order."""

    state: list[ExperimentState] | None = Field(None, max_length=20, description="Any of these.")
    sort: ExperimentSort = Field("-created", description="With - the greatest or newest first.")


@dataclass(frozen=True)
class _Place:
    """A sort key of runs."""

    by: ColumnElement[Any] | None
    kind: type[str | int | float | datetime] = field(default=str)


def run_page(session: Session, kept: RunQuery, experiment: Experiment | None) -> RunPage:
    """A page of runs, of that experiment where one is given."""
    sort, limit = kept.sort, kept.limit
    place = _run_place(sort.removeprefix("-"))
    order = SortOrder(sort, place.by, Run.id.expression, place.kind, sort.startswith("-"))
    # First the ids alone, which an index has in it with all that runs are ordered by; then the rows of this page.
    query = select(Run.id, literal(None) if place.by is None else place.by).select_from(Run)
    query = query.outerjoin(Experiment, Experiment.id == Run.experiment_id)
    if sort.endswith("top1"):
        name_id = select(MetricName.id).where(MetricName.name == _TOP1).scalar_subquery()
        query = query.outerjoin(MetricLatest, and_(MetricLatest.run_id == Run.id, MetricLatest.name_id == name_id))
    conditions = _run_conditions(kept)
    if experiment is not None:
        linked = select(ExperimentRun.run_id).where(ExperimentRun.experiment_id == experiment.id)
        conditions.append(Run.id.in_(linked))
    else:
        conditions += _archived(kept.archived)
    total = None
    if kept.count:
        matching = select(func.count()).select_from(Run).outerjoin(Experiment, Experiment.id == Run.experiment_id)
        total = session.scalars(matching.where(*conditions)).one()
    connection = session.connection()
    found = connection.execute(order.apply(query.where(*conditions), kept.cursor).limit(limit + 1)).all()
    shown = [run_id for run_id, _ in found[:limit]]
    items = {
        item.id: item for item in serializers.run_summaries(connection, serializers.rows_of_runs(connection, shown))
    }
    more = len(found) > limit
    return RunPage(
        items=[items[run_id] for run_id in shown if run_id in items],  # one may have been deleted just now
        next_cursor=order.cursor(*reversed(found[limit - 1])) if more else None,
        total=total,
    )


def experiment_page(session: Session, kept: ExperimentQuery) -> ExperimentPage:
    """A page of experiments."""
    sort, limit = kept.sort, kept.limit
    by = Experiment.name.expression if sort.endswith("name") else None
    order = SortOrder(sort, by, Experiment.id.expression, str, sort.startswith("-"))
    conditions = _experiment_conditions(kept) + _archived(kept.archived)
    rows = list(session.scalars(order.apply(select(Experiment).where(*conditions), kept.cursor).limit(limit + 1)))
    more = len(rows) > limit
    last = rows[limit - 1] if more else None
    total = None
    if kept.count:
        total = session.scalars(select(func.count()).select_from(Experiment).where(*conditions)).one()
    return ExperimentPage(
        items=serializers.experiment_summaries(session, rows[:limit]),
        next_cursor=order.cursor(last.name if by is not None else None, last.id) if last else None,
        total=total,
    )


def _run_place(name: str) -> _Place:
    if name == "created":
        return _Place(None)  # ids are in the order of their making
    if name == "priority":
        return _Place(Run.priority.expression, int)
    if name == "top1":  # without a value yet: below every accuracy
        return _Place(func.coalesce(MetricLatest.value, -1.0), float)
    column = Run.started_at if name == "started" else Run.ended_at
    return _Place(func.coalesce(column, literal(_EARLIEST, UtcDateTime()), type_=UtcDateTime()), datetime)


def _archived(which: Archived) -> list[ColumnElement[bool]]:
    if which == "include":
        return []
    return [Experiment.archived_at.is_(None) if which == "exclude" else Experiment.archived_at.is_not(None)]


def _run_conditions(kept: RunQuery) -> list[ColumnElement[bool]]:
    found = _of_runs(kept)
    if kept.state:
        found.append(Run.state.in_(kept.state))
    if kept.id:
        found.append(Run.id.in_(kept.id))
    if kept.teacher:
        found.append(Run.teacher_run_id == kept.teacher)
    if kept.role:
        found.append(Run.role == kept.role)
    if kept.text:
        text = kept.text
        columns = (Experiment.name, Run.label, Run.model, Run.dataset, Run.reason)
        found.append(or_(*(column.icontains(text, autoescape=True) for column in columns)))
    for tag in kept.tag or ():
        tagged = select(ExperimentRun.run_id).join(
            ExperimentTag, ExperimentTag.experiment_id == ExperimentRun.experiment_id
        )
        found.append(Run.id.in_(tagged.where(ExperimentTag.tag == tag)))
    if kept.submitted_by:
        found.append(Experiment.submitted_by == kept.submitted_by)
    if kept.sweep:
        found.append(Experiment.sweep == kept.sweep)
    return found + _created(kept, Run.created_at.expression)


def _experiment_conditions(kept: ExperimentQuery) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = [_some_run(condition) for condition in _of_runs(kept)]
    if kept.state:
        has = {
            name: _some_run(condition)
            for name, condition in (
                ("live", Run.state.not_in(TERMINAL)),
                ("failed", Run.state == "failed"),
                ("cancelled", Run.state == "cancelled"),
            )
        }
        ended = not_(has["live"])
        meant = {
            "active": has["live"],
            "failed": and_(ended, has["failed"]),
            "cancelled": and_(ended, not_(has["failed"]), has["cancelled"]),
            "finished": and_(ended, not_(has["failed"]), not_(has["cancelled"])),
        }
        found.append(or_(*(meant[state] for state in kept.state)))
    if kept.text:
        found.append(Experiment.name.icontains(kept.text, autoescape=True))
    for tag in kept.tag or ():
        tagged = select(ExperimentTag.experiment_id).where(ExperimentTag.tag == tag)
        found.append(Experiment.id.in_(tagged))
    if kept.submitted_by:
        found.append(Experiment.submitted_by == kept.submitted_by)
    if kept.sweep:
        found.append(Experiment.sweep == kept.sweep)
    return found + _created(kept, Experiment.created_at.expression)


def _some_run(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    """Whether a run that the experiment uses is so."""
    return exists().where(ExperimentRun.experiment_id == Experiment.id, Run.id == ExperimentRun.run_id, condition)


def _of_runs(kept: _Query) -> list[ColumnElement[bool]]:
    columns: Sequence[tuple[Any, list[str] | None]] = (
        (Run.method, kept.method),
        (Run.dataset, kept.dataset),
        (Run.model, kept.model),
    )
    return [column.in_(names) for column, names in columns if names]


def _created(kept: _Query, column: ColumnElement[datetime]) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if kept.created_after:
        found.append(column >= kept.created_after)
    if kept.created_before:
        found.append(column < kept.created_before)
    return found
