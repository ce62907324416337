"""What a run has measured and said."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response
from sqlalchemy.orm import Session

from backend.api.boundary import BoundedRoute
from backend.api.dependencies import SessionDep, reads
from backend.db import models
from backend.errors import not_found
from backend.metrics import log_store, point_store
from core.protocol.public import LogsReply, MetricsReply

router = APIRouter(tags=["runs"], dependencies=[reads], route_class=BoundedRoute)

MAX_POINTS = 20_000
MAX_COUNT = 2**53
"""No counter of ours goes further, and both databases can hold it."""


@router.get("/runs/{run_id}/metrics", response_model=MetricsReply)
def read_metrics(
    run_id: str,
    session: SessionDep,
    names: Annotated[list[str] | None, Query(max_length=1000, description="Which metrics; all where left out.")] = None,
    since: Annotated[int, Query(ge=0, le=MAX_COUNT, description="The cursor of an earlier reply; 0: all.")] = 0,
    max_points: Annotated[int, Query(ge=1, le=MAX_POINTS, description="The most entries in a series.")] = 2000,
) -> Response:
    """The run's series, reduced to `max_points` entries each; with `since` only what was taken in after that.

    A metric without a (new) point has no series in the reply.
    """
    wanted = None if names is None else list(names)
    reply = point_store.reply(session, _run(session, run_id), wanted, since, max_points)
    return Response(reply.model_dump_json(), media_type="application/json")  # validating our own numbers costs more


@router.get("/runs/{run_id}/logs")
def read_logs(
    run_id: str,
    session: SessionDep,
    after: Annotated[int, Query(ge=0, le=MAX_COUNT, description="The number of the last line already read.")] = 0,
    limit: Annotated[int, Query(ge=1, le=5000, description="The most lines in one answer.")] = 500,
    tail: Annotated[int | None, Query(ge=1, le=5000, description="Only the last so many lines.")] = None,
) -> LogsReply:
    """The run's log lines, in the order of their numbers."""
    return log_store.read(session, _run(session, run_id).id, after, limit, tail)


def _run(session: Session, run_id: str) -> models.Run:
    run = session.get(models.Run, run_id)
    if run is None:
        raise not_found("run", run_id)
    return run
