"""A run as it happens: server-sent events, read from the database twice a second."""

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
from backend.routes.metrics import MAX_COUNT
from backend.tokens import identify
from core.protocol.artifacts import RunNews
from core.protocol.public import TERMINAL, ProblemField, RunProgress

router = APIRouter(tags=["runs"], dependencies=[reads], route_class=BoundedRoute)

_PERIOD_SECONDS = 0.5
_LINES = 500


@dataclass(frozen=True)
class Position:
    """How far a reader is; as text it is the id of an event.

    Attributes:
        ingest: cursor of the metrics.
        line: number of the last log line.
    """

    ingest: int = 0
    line: int = 0

    def __str__(self) -> str:
        return f"{self.ingest}-{self.line}"

    @classmethod
    def parse(cls, text: str) -> Position | None:
        """The inverse of ``str``; None for a text that is no position."""
        match = re.fullmatch(r"(\d{1,15})-(\d{1,15})", text, re.ASCII)
        return cls(int(match[1]), int(match[2])) if match else None


@dataclass(frozen=True)
class _News:
    """What one look at the database found: events in order, and whether the run has ended and all is said."""

    events: list[ServerSentEvent]
    position: Position
    progress: RunProgress
    full: bool
    ended: bool


def _token(credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> str:
    return credentials.credentials if credentials else ""


TokenDep = Annotated[str, Depends(_token)]
"""What the request was allowed by: looked at again while it lasts."""


def _still_allowed(database: Database, token: str) -> bool:
    """Whether the token has neither expired nor been revoked since the request began."""
    principal = identify(database, token)
    return principal is not None and "read" in principal.scopes


def _existing_run(run_id: str, database: DatabaseDep) -> str:
    # As a dependency, so that it is answered with 404 before the stream begins, and its session does not outlive it.
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
    since: Annotated[int, Query(ge=0, le=MAX_COUNT, description="Cursor of metrics already read.")] = 0,
    after: Annotated[int, Query(ge=0, le=MAX_COUNT, description="Number of the last log line already read.")] = 0,
    max_points: Annotated[int, Query(ge=1, le=20_000, description="The most entries in a series of one event.")] = 2000,
    last_event_id: Annotated[str, Header(description="Goes on after that event.")] = "",
) -> AsyncIterator[ServerSentEvent]:
    """The run as it happens, until it ends.

    `state` (RunProgress) first and at each change, `metrics` (MetricsReply: the points that are new), `log` (LogLine),
    and `end` (RunProgress) once the run has ended and everything before it is sent; the stream then closes. Each id
    can be given back as `Last-Event-ID`. The stream ends without `end` where the run is deleted, or the token revoked.
    """
    stopping: threading.Event = request.app.state.stopping
    position = Position.parse(last_event_id) or Position(since, after)
    progress: RunProgress | None = None
    while not stopping.is_set():
        news = await run_in_threadpool(_look, database, token, run_id, position, progress, max_points)
        if news is None:  # deleted in the meantime, or no longer for this reader
            return
        for event in news.events:
            yield event
        if news.ended:
            return
        position, progress = news.position, news.progress
        if not news.full:
            await anyio.sleep(_PERIOD_SECONDS)


@router.get("/runs/{run_id}/news")
async def read_news(
    run_id: Annotated[str, Depends(_existing_run)],
    request: Request,
    database: DatabaseDep,
    token: TokenDep,
    cursor: Annotated[str, Query(max_length=100, description="Of the answer before; left out, from the start.")] = "",
    wait: Annotated[float, Query(ge=0, le=60, description="Seconds to wait for something new.")] = 25.0,
    max_points: Annotated[int, Query(ge=1, le=20_000, description="The most entries in a series.")] = 2000,
    tail: Annotated[
        int | None, Query(ge=1, le=500, description="From the start: only the last lines of the log.")
    ] = None,
) -> RunNews:
    """What is new about a run since a cursor, waiting for it a while: for what cannot read the stream of its events.

    Ask again with the answer's cursor until `ended`. An answer without metrics and lines says that nothing has come.
    """
    stopping: threading.Event = request.app.state.stopping
    numbers, _, state = cursor.partition(":")
    position = Position.parse(numbers)
    if cursor and position is None:
        text = "this cursor is not one that this run has given out"
        raise invalid(text, ProblemField(path="cursor", message="unknown"))
    until = time.monotonic() + wait
    while True:
        news = await run_in_threadpool(_news, database, token, run_id, position, max_points, tail)
        new = news.metrics.series or news.lines or news.ended or news.state != state
        if new or stopping.is_set() or time.monotonic() >= until or await request.is_disconnected():
            return news
        await anyio.sleep(min(_PERIOD_SECONDS, max(until - time.monotonic(), 0.0)))


def _news(
    database: Database, token: str, run_id: str, known: Position | None, max_points: int, tail: int | None
) -> RunNews:
    if not _still_allowed(database, token):
        raise ApiError(401, "this token was revoked, or has expired, while its request was waiting")
    position = known or Position()
    with database.read() as session:
        run = session.get(models.Run, run_id)
        if run is None:
            raise not_found("run", run_id)
        progress = _progress(run)
        metrics = point_store.reply(session, run, None, position.ingest, max_points)
        lines = log_store.read(session, run_id, position.line, _LINES, None if known else tail).lines
    after = Position(metrics.cursor, lines[-1].number if lines else position.line)
    return RunNews(
        run_id=run_id,
        cursor=f"{after}:{progress.state}",
        state=progress.state,
        progress=progress,
        metrics=metrics,
        lines=lines,
        ended=progress.state in TERMINAL and len(lines) < _LINES,
    )


def _look(
    database: Database, token: str, run_id: str, position: Position, known: RunProgress | None, max_points: int
) -> _News | None:
    """Read what is new, in one short session: none is held while the stream waits."""
    if not _still_allowed(database, token):
        return None
    with database.read() as session:
        run = session.get(models.Run, run_id)
        if run is None:
            return None
        progress = _progress(run)
        metrics = point_store.reply(session, run, None, position.ingest, max_points)
        lines = log_store.read(session, run_id, position.line, _LINES, None).lines
    full = len(lines) == _LINES
    events: list[ServerSentEvent] = []
    if progress != known:
        events.append(ServerSentEvent(event="state", id=str(position), data=progress))
    if metrics.series:
        position = replace(position, ingest=metrics.cursor)
        events.append(ServerSentEvent(event="metrics", id=str(position), data=metrics))
    for line in lines:
        position = replace(position, line=line.number)
        events.append(ServerSentEvent(event="log", id=str(position), data=line))
    ended = progress.state in TERMINAL and not full
    if ended:
        events.append(ServerSentEvent(event="end", id=str(position), data=progress))
    return _News(events, position, progress, full, ended)


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
