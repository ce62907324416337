"""Writes and reads log lines, numbered from 1 within a run over all its attempts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, Connection, func, select
from sqlalchemy import insert as sql_insert
from sqlalchemy.orm import Session

from backend.db import models
from core.events import Log, Record
from core.protocol.public import LogLine, LogsReply

_MAX_TIMESTAMP = 253_402_300_799.0  # the last second of the year 9999, the maximum of datetime


def insert(connection: Connection, run_id: str, attempt: int, records: Iterable[Record]) -> None:
    """Insert the log lines among the records, in the caller's transaction, which holds the run's row lock.

    A resumed attempt repeats the journal of the previous one up to the checkpoint: lines with the same time and text
    as a line of an earlier attempt are skipped.
    """
    lines = [(_to_datetime(record.time), record.event) for record in records if isinstance(record.event, Log)]
    if not lines:
        return
    times = [time for time, _ in lines]
    table = models.LogLine
    known_lines = set(
        connection.execute(
            select(table.time, table.message).where(
                table.run_id == run_id, table.attempt < attempt, table.time.between(min(times), max(times))
            )
        )
    )
    number = connection.scalar(select(func.max(table.number)).where(table.run_id == run_id)) or 0
    rows = []
    for time, event in lines:
        message = event.message
        if (time, message) in known_lines:
            continue
        number += 1
        rows.append(
            {
                "run_id": run_id,
                "number": number,
                "attempt": attempt,
                "time": time,
                "level": event.level,
                "message": message,
            }
        )
    if rows:
        connection.execute(sql_insert(table), rows)


@dataclass(frozen=True)
class LogFilter:
    """Which lines of a log are read.

    Attributes:
        after: Only lines with a greater number.
        before: Only lines with a smaller number; None for no limit.
        search: Only lines that contain this text, ignoring case (in SQLite the case of A to Z alone); empty for all.
        levels: Only lines of these levels; empty for all.
    """

    after: int = 0
    before: int | None = None
    search: str = ""
    levels: Sequence[str] = ()

    def matching(self, run_id: str) -> list[ColumnElement[bool]]:
        """Return the conditions of the lines that match, whatever their number."""
        table = models.LogLine
        conditions: list[ColumnElement[bool]] = [table.run_id == run_id]
        if self.search:
            conditions.append(table.message.icontains(self.search, autoescape=True))
        if self.levels:
            conditions.append(table.level.in_(self.levels))
        return conditions

    def conditions(self, run_id: str) -> list[ColumnElement[bool]]:
        """Return the conditions of the lines that are read."""
        number = models.LogLine.number
        bounds = [number > self.after] if self.before is None else [number > self.after, number < self.before]
        return [*self.matching(run_id), *bounds]


def read(
    session: Session, run_id: str, which: LogFilter, limit: int, tail: int | None, *, count: bool = False
) -> LogsReply:
    """Return log lines of a run.

    Args:
        session: A read transaction.
        run_id: The run.
        which: Which lines.
        limit: Maximum number of lines.
        tail: Return only the last ``tail`` of these lines; None for the first ``limit``.
        count: Whether to count the lines of the whole log that match.
    """
    table = models.LogLine
    query = select(table.number, table.attempt, table.time, table.level, table.message).where(*which.conditions(run_id))
    if tail is None:
        rows = session.execute(query.order_by(table.number).limit(limit)).all()
    else:
        rows = session.execute(query.order_by(table.number.desc()).limit(min(tail, limit))).all()[::-1]
    lines = [
        LogLine(number=number, attempt=attempt, time=time, level=level, message=message)
        for number, attempt, time, level, message in rows
    ]
    counted = select(func.count()).select_from(table).where(*which.matching(run_id))
    return LogsReply(run_id=run_id, lines=lines, total=session.scalar(counted) if count else None)


def _to_datetime(seconds: float) -> datetime:
    seconds = seconds if math.isfinite(seconds) else 0.0
    return datetime.fromtimestamp(min(max(seconds, 0.0), _MAX_TIMESTAMP), UTC)
