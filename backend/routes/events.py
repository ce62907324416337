"""Live updates of a run: server-sent events and long polling, read from the database twice a second."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Annotated

import anyio
from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials
from fastapi.sse import EventSourceResponse, ServerSentEvent

from backend.api.boundary import BoundedRoute
from backend.api.dependencies import DatabaseDep, bearer, reads
from backend.db import Database, models
from backend.errors import ApiError, invalid, not_found
from backend.metrics import log_store, point_store
from backend.metrics.log_store import LogFilter
from backend.people.rights import acting_as
from backend.routes.metrics import MAX_COUNT
from backend.tokens import Principal, identify
from core.protocol.artifacts import RunUpdates
from core.protocol.public import TERMINAL, ProblemField, RunProgress

router = APIRouter(tags=["runs"], dependencies=[reads], route_class=BoundedRoute)

_PERIOD_SECONDS = 0.5
_MAX_LINES = 500


@dataclass(frozen=True)
class StreamCursor:
    """A position in a run's events; its text form is the id of an event.

    Attributes:
        ingest: Cursor of the metrics.
        line: Number of the last log line.
    """

    ingest: int = 0
    line: int = 0

    def __str__(self) -> str:
        return f"{self.ingest}-{self.line}"

    @classmethod
    def parse(cls, text: str) -> StreamCursor | None:
        """Return the cursor of a text made by ``str``; None if the text is not a cursor."""
        match = re.fullmatch(r"(\d{1,15})-(\d{1,15})", text, re.ASCII)
        return cls(int(match[1]), int(match[2])) if match else None


@dataclass(frozen=True)
class _Update:
    """The result of one read of the database.

    Attributes:
        events: The new events in order.
        cursor: Cursor after these events.
        progress: The run's progress.
        full: Whether there are more log lines, which should be read at once.
        ended: Whether the run has ended and every event has been read.
    """

    events: list[ServerSentEvent]
    cursor: StreamCursor
    progress: RunProgress
    full: bool
    ended: bool


def _token(credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> str:
    return credentials.credentials if credentials else ""


TokenDep = Annotated[str, Depends(_token)]
"""The request's token, which is checked again while the stream lasts."""


def _reader(database: Database, token: str) -> Principal | None:
    """Return the sender, with its present rights; None if the token has expired or been revoked meanwhile."""
    principal = identify(database, token)
    return principal if principal is not None and "read" in principal.scopes else None


def _existing_run(run_id: str, database: DatabaseDep) -> str:
    # This is a dependency, so that 404 is answered and the session is closed before the stream begins.
    with database.read() as session:
        if session.get(models.Run, run_id) is None:
            raise not_found("run", run_id)
    return run_id


@router.get("/runs/{run_id}/events", response_class=EventSourceResponse)
async def read_events(
    run_id: Annotated[str, Depends(_existing_run)],
    request: Request,
    database: DatabaseDep,
    token: TokenDep,
    since: Annotated[int, Query(ge=0, le=MAX_COUNT, description="Cursor of the metrics already read.")] = 0,
    after: Annotated[int, Query(ge=0, le=MAX_COUNT, description="Number of the last log line already read.")] = 0,
    max_points: Annotated[int, Query(ge=1, le=20_000, description="Maximum number of points per series.")] = 2000,
    last_event_id: Annotated[str, Header(description="The stream continues after this event.")] = "",
) -> AsyncIterator[ServerSentEvent]:
    """Stream a run's events until it ends.

    `state` (RunProgress) comes first and at each change, `metrics` (MetricsReply) with new points, `log` (LogLine), and
    `end` (RunProgress) once the run has ended and all earlier events are sent; the stream then closes. Any event id can
    be sent back as `Last-Event-ID`. The stream ends without `end` if the run is deleted or the token is revoked.
    """
    stopping: threading.Event = request.app.state.stopping
    stream_cursor = StreamCursor.parse(last_event_id) or StreamCursor(since, after)
    progress: RunProgress | None = None
    while not stopping.is_set():
        update = await run_in_threadpool(_read_update, database, token, run_id, stream_cursor, progress, max_points)
        if update is None:  # the run was deleted meanwhile, or the token is no longer valid
            return
        for event in update.events:
            yield event
        if update.ended:
            return
        stream_cursor, progress = update.cursor, update.progress
        if not update.full:
            await anyio.sleep(_PERIOD_SECONDS)


@router.get("/runs/{run_id}/news")
async def read_news(
    run_id: Annotated[str, Depends(_existing_run)],
    request: Request,
    database: DatabaseDep,
    token: TokenDep,
    cursor: Annotated[
        str, Query(max_length=100, description="The cursor of the previous answer; empty to read from the start.")
    ] = "",
    wait: Annotated[float, Query(ge=0, le=60, description="Maximum number of seconds to wait for an update.")] = 25.0,
    max_points: Annotated[int, Query(ge=1, le=20_000, description="Maximum number of points per series.")] = 2000,
    tail: Annotated[
        int | None, Query(ge=1, le=500, description="Without a cursor: only this number of last log lines.")
    ] = None,
) -> RunUpdates:
    """Wait for updates of a run after a cursor (long polling), for clients that cannot read server-sent events.

    Repeat the request with the answer's cursor until `ended` is true. If there is no update within `wait` seconds, the
    answer has no metrics and no lines.
    """
    stopping: threading.Event = request.app.state.stopping
    numbers, _, state = cursor.partition(":")
    stream_cursor = StreamCursor.parse(numbers)
    if cursor and stream_cursor is None:
        text = "this cursor does not belong to this run; start again without a cursor"
        raise invalid(text, ProblemField(path="cursor", message="unknown"))
    until = time.monotonic() + wait
    while True:
        news = await run_in_threadpool(_news, database, token, run_id, stream_cursor, max_points, tail)
        has_news = news.metrics.series or news.lines or news.ended or news.state != state
        if has_news or stopping.is_set() or time.monotonic() >= until or await request.is_disconnected():
            return news
        await anyio.sleep(min(_PERIOD_SECONDS, max(until - time.monotonic(), 0.0)))


def _news(
    database: Database, token: str, run_id: str, start: StreamCursor | None, max_points: int, tail: int | None
) -> RunUpdates:
    reader = _reader(database, token)
    if reader is None:
        raise ApiError(401, "this token was revoked or has expired while its request was waiting")
    cursor = start or StreamCursor()
    with acting_as(reader), database.read() as session:
        run = session.get(models.Run, run_id)
        if run is None:
            raise not_found("run", run_id)
        progress = _progress(run)
        metrics = point_store.metrics_reply(session, run, None, cursor.ingest, max_points)
        lines = log_store.read(session, run_id, LogFilter(cursor.line), _MAX_LINES, None if start else tail).lines
    after = StreamCursor(metrics.cursor, lines[-1].number if lines else cursor.line)
    return RunUpdates(
        run_id=run_id,
        cursor=f"{after}:{progress.state}",
        state=progress.state,
        progress=progress,
        metrics=metrics,
        lines=lines,
        ended=progress.state in TERMINAL and len(lines) < _MAX_LINES,
    )


def _read_update(
    database: Database, token: str, run_id: str, cursor: StreamCursor, previous: RunProgress | None, max_points: int
) -> _Update | None:
    """Read new events in one short session, so that the waiting stream holds no session.

    Returns:
        None if the run was deleted or the token is no longer valid.
    """
    reader = _reader(database, token)
    if reader is None:
        return None
    with acting_as(reader), database.read() as session:
        run = session.get(models.Run, run_id)
        if run is None:
            return None
        progress = _progress(run)
        metrics = point_store.metrics_reply(session, run, None, cursor.ingest, max_points)
        lines = log_store.read(session, run_id, LogFilter(cursor.line), _MAX_LINES, None).lines
    full = len(lines) == _MAX_LINES
    events: list[ServerSentEvent] = []
    if progress != previous:
        events.append(ServerSentEvent(event="state", id=str(cursor), data=progress))
    if metrics.series:
        cursor = replace(cursor, ingest=metrics.cursor)
        events.append(ServerSentEvent(event="metrics", id=str(cursor), data=metrics))
    for line in lines:
        cursor = replace(cursor, line=line.number)
        events.append(ServerSentEvent(event="log", id=str(cursor), data=line))
    ended = progress.state in TERMINAL and not full
    if ended:
        events.append(ServerSentEvent(event="end", id=str(cursor), data=progress))
    return _Update(events, cursor, progress, full, ended)


def _progress(run: models.Run) -> RunProgress:
    return RunProgress.model_validate(
        {
            "run_id": run.id,
            "state": run.state,
            "pausing": run.pausing,
            "reason": run.reason,
            "attempt": run.attempt,
            "step": run.step,
            "total_steps": run.total_steps,
            "epoch": run.epoch,
            "total_epochs": run.total_epochs,
        }
    )
