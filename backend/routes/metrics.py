"""Metrics and log lines of a run."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response
from sqlalchemy.orm import Session

from backend.api.boundary import BoundedRoute
from backend.api.dependencies import SessionDep, reads
from backend.db import models
from backend.errors import not_found
from backend.metrics import log_store, point_store
from core.protocol.metrics import LogLevel
from core.protocol.public import LogsReply, MetricsReply

router = APIRouter(tags=["runs"], dependencies=[reads], route_class=BoundedRoute)

MAX_POINTS = 20_000
MAX_COUNT = 2**53
"""Greatest value of a counter; both databases can store it."""


@router.get("/runs/{run_id}/metrics", response_model=MetricsReply)
def read_metrics(
    run_id: str,
    session: SessionDep,
    names: Annotated[list[str] | None, Query(max_length=1000, description="Names of metrics; by default all.")] = None,
    since: Annotated[int, Query(ge=0, le=MAX_COUNT, description="Cursor of an earlier answer; 0 for all points.")] = 0,
    max_points: Annotated[int, Query(ge=1, le=MAX_POINTS, description="Maximum number of points per series.")] = 2000,
) -> Response:
    """Read the run's series, downsampled to `max_points` points each; with `since`, only points stored after it.

    A metric without new points has no series in the answer.
    """
    reply = point_store.metrics_reply(session, _run(session, run_id), names, since, max_points)
    return Response(reply.model_dump_json(), media_type="application/json")  # FastAPI would validate it again


@router.get("/runs/{run_id}/logs")
def read_logs(
    run_id: str,
    session: SessionDep,
    after: Annotated[int, Query(ge=0, le=MAX_COUNT, description="Number of the last line already read.")] = 0,
    limit: Annotated[int, Query(ge=1, le=5000, description="Maximum number of lines in the answer.")] = 500,
    tail: Annotated[int | None, Query(ge=1, le=5000, description="Only this number of last lines.")] = None,
    before: Annotated[
        int | None, Query(ge=1, le=MAX_COUNT, description="Only lines with a smaller number, to page back with tail.")
    ] = None,
    search: Annotated[
        str, Query(max_length=200, description="Only lines that contain this text, ignoring the case of letters.")
    ] = "",
    level: Annotated[list[LogLevel] | None, Query(max_length=10, description="Only lines of these levels.")] = None,
    count: Annotated[
        bool, Query(description="Return the number of lines of the whole log that match search and level as `total`.")
    ] = False,
) -> LogsReply:
    """Read the run's log lines, in the order of their numbers; search them, and filter them by their level."""
    which = log_store.LogFilter(after, before, search, level or ())
    return log_store.read(session, _run(session, run_id).id, which, limit, tail, count=count)


def _run(session: Session, run_id: str) -> models.Run:
    run = session.get(models.Run, run_id)
    if run is None:
        raise not_found("run", run_id)
    return run
