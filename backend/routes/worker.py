"""The protocol of ``core.protocol.worker``: register, heartbeat, claim, report, finish."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.api.boundary import BoundedRoute
from backend.api.dependencies import DatabaseDep, NudgesDep, SettingsDep, WorkerDep
from backend.api.openapi import EVENTS_BODY
from backend.api.request_bodies import RawDep, parsed
from backend.api.short_way import short_way
from backend.db import Database
from backend.db.models import Worker
from backend.queue import worker_registry, worker_reports
from backend.queue.claim import claim
from backend.tokens import Principal, refuse_other
from core.protocol.worker import (
    ClaimReply,
    ClaimRequest,
    EventBatch,
    EventReply,
    Heartbeat,
    HeartbeatReply,
    Outcome,
    Registered,
    Registration,
)

router = APIRouter(prefix="/worker", tags=["worker protocol"], route_class=BoundedRoute)

_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
Id = Annotated[str, Path(max_length=64, pattern=r"^[A-Za-z0-9-]+$")]


@contextmanager
def _speaking_for(worker_id: str, principal: Principal, database: Database) -> Iterator[Session]:
    """A transaction for that worker. Raises ApiError 403 where it registered with another token, which is in use."""
    with database.write() as session:
        owner = session.scalar(select(Worker.token_id).where(Worker.id == worker_id))
        refuse_other(session.connection(), owner, principal)
        yield session


_FENCED: dict[int | str, dict[str, Any]] = {409: {"description": "The run is no longer this attempt's"}}


@router.post("/register")
def register(
    registration: Registration,
    principal: WorkerDep,
    database: DatabaseDep,
    settings: SettingsDep,
    nudges: NudgesDep,
) -> Registered:
    """Enter a worker. Runs that it holds from an earlier life go back to the queue at once."""
    with database.write() as session:
        answer = worker_registry.register(session, registration, principal, settings)
    nudges.request()
    return answer


@router.post("/{worker_id}/heartbeat")
def heartbeat(
    worker_id: Id, principal: WorkerDep, beat: Heartbeat, database: DatabaseDep, settings: SettingsDep
) -> HeartbeatReply:
    """Renew the leases of the runs named, and learn what to do with each. 404: register first."""
    with _speaking_for(worker_id, principal, database) as session:
        return worker_registry.heartbeat(session, worker_id, beat, settings)


@router.post("/{worker_id}/claim")
def claim_run(
    worker_id: Id,
    principal: WorkerDep,
    database: DatabaseDep,
    settings: SettingsDep,
    request: ClaimRequest | None = None,
) -> ClaimReply:
    """Take the best eligible run, under a lease; with the key of an earlier request, what that was given. 404: register
    first."""
    with _speaking_for(worker_id, principal, database) as session:
        return ClaimReply(claim=claim(session, worker_id, request or ClaimRequest(), settings))


def events(worker_id: Id, principal: WorkerDep, run_id: Id, body: RawDep, database: DatabaseDep) -> Response:
    """Report what the training said. 409: the run is no longer this attempt's, and its process is to be ended."""
    batch = parsed(EventBatch, body)
    with database.writing() as connection:
        reply = EventReply(accepted_seq=worker_reports.ingest_events(connection, worker_id, run_id, batch, principal))
    return Response(reply.model_dump_json(), media_type="application/json")  # the framework would validate it again


async def _events_of(request: Request, principal: Principal) -> dict[str, Any] | None:
    if not all(map(_ID.fullmatch, request.path_params.values())):
        return None
    body = await request.body()
    return {**request.path_params, "principal": principal, "body": body, "database": request.app.state.database}


router.add_api_route(
    "/{worker_id}/runs/{run_id}/events",
    events,
    methods=["POST"],
    response_model=EventReply,
    responses=_FENCED,
    openapi_extra=EVENTS_BODY,
    route_class_override=short_way("worker", _events_of),
)


@router.post("/{worker_id}/runs/{run_id}/finish", status_code=204, responses=_FENCED)
def finish(
    worker_id: Id,
    principal: WorkerDep,
    run_id: Id,
    outcome: Outcome,
    database: DatabaseDep,
    settings: SettingsDep,
    nudges: NudgesDep,
) -> None:
    """The attempt has ended. The same again changes nothing; 409 where the run is no longer this attempt's."""
    with _speaking_for(worker_id, principal, database) as session:
        worker_reports.record_outcome(session, worker_id, run_id, outcome, settings)
    nudges.request()
