"""Reads the audit log: pages of it, and all of it as an export."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.orm import Session

from backend.artifacts.finished_runs import cursor_of, position_of
from backend.comparisons import sheets
from backend.db import Database, models
from backend.experiments.list_queries import UtcTime
from core.protocol.audit import AuditEntry, AuditPage

EXPORT_ROWS = 1000
"""Rows that an export reads at a time."""
_COLUMNS = list(AuditEntry.model_fields)

Text = Annotated[str | None, Field(max_length=120)]


class AuditQuery(BaseModel):
    """Filters of the audit log. An entry matches every given one."""

    model_config = ConfigDict(frozen=True)

    token: Text = Field(None, description="Name or id of the token.")
    person: Text = Field(None, description="Name of the person whose token it was.")
    action: Text = Field(None, description="The action or its beginning, such as `experiments.` for all of these.")
    kind: Text = Field(None, description="Kind of the object, such as `run`.")
    object: Text = Field(None, description="Id of the object, or its name if its kind has no ids.")
    project: Text = Field(None, description="Name of the project.")
    refused: bool | None = Field(None, description="true: only refused attempts; false: only changes.")
    since: UtcTime | None = Field(None, description="At this time or later.")
    until: UtcTime | None = Field(None, description="Before this time.")
    cursor: str | None = Field(None, max_length=200, description="`next_cursor` of the previous page.")
    limit: int = Field(50, ge=1, le=500, description="Entries per page.")
    count: bool = Field(False, description="Return the number of entries on all pages as `total`.")
    kind_of_answer: Literal["json", "csv", "jsonl"] = Field(
        "json",
        alias="format",
        description="json: a page. csv and jsonl: all entries, oldest first, without regard to cursor and limit.",
    )


def page(session: Session, query: AuditQuery) -> AuditPage:
    """Return a page of entries, newest first."""
    entry, conditions = models.AuditEntry, _conditions(query)
    rows = select(entry).where(*conditions).order_by(entry.id.desc()).limit(query.limit + 1)
    if (last := position_of(query.cursor)) >= 0:
        rows = rows.where(entry.id < last)
    found = list(session.scalars(rows))
    total = session.scalar(select(func.count()).select_from(entry).where(*conditions)) if query.count else None
    return AuditPage(
        items=[_shape(row) for row in found[: query.limit]],
        next_cursor=cursor_of(found[query.limit - 1].id) if len(found) > query.limit else None,
        total=total,
    )


def export(database: Database, query: AuditQuery) -> Iterator[str]:
    """Yield the lines of all entries, oldest first, as CSV or as one JSON object per line.

    Each block has a transaction of its own, so that a slow reader holds none open.
    """
    entry, conditions, after = models.AuditEntry, _conditions(query), 0
    while True:
        with database.read() as session:
            rows = select(entry).where(*conditions, entry.id > after).order_by(entry.id).limit(EXPORT_ROWS)
            items = [_shape(row) for row in session.scalars(rows)]
        if query.kind_of_answer == "jsonl":
            yield "".join(item.model_dump_json() + "\n" for item in items)
        else:
            yield sheets.csv_text([_csv_row(item) for item in items], _COLUMNS, header=after == 0)
        if len(items) < EXPORT_ROWS:
            return
        after = items[-1].id


def _csv_row(item: AuditEntry) -> dict[str, Any]:
    return {**item.model_dump(mode="json"), "details": item.details_text()}


def _conditions(query: AuditQuery) -> list[ColumnElement[bool]]:
    entry = models.AuditEntry
    conditions: list[ColumnElement[bool]] = [
        column == value
        for column, value in (
            (entry.person, query.person),
            (entry.kind, query.kind),
            (entry.object, query.object),
            (entry.project, query.project),
        )
        if value is not None
    ]
    if query.token is not None:
        conditions.append(or_(entry.token == query.token, entry.token_id == query.token))
    if query.action is not None:
        conditions.append(entry.action.startswith(query.action, autoescape=True))
    if query.refused is not None:
        conditions.append(entry.status >= 400 if query.refused else entry.status < 400)
    if query.since is not None:
        conditions.append(entry.at >= query.since)
    if query.until is not None:
        conditions.append(entry.at < query.until)
    return conditions


def _shape(row: models.AuditEntry) -> AuditEntry:
    return AuditEntry(**{name: getattr(row, name) for name in _COLUMNS})
