"""The protocol of ``core.wire.worker``: register, heartbeat, claim, report, finish."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Path, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend import reports, workers
from backend.bodies import RawDep, parsed
from backend.claim import claim
from backend.db import Database
from backend.db.models import Worker
from backend.deps import DatabaseDep, SettingsDep, WakerDep, WorkerDep
from backend.openapi import EVENTS_BODY
from backend.tokens import Principal, refuse_other
from core.wire.worker import (
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

router = APIRouter(prefix="/worker", tags=["worker protocol"])

WorkerId = Annotated[str, Path(max_length=64, pattern=r"^[A-Za-z0-9-]+$")]


@contextmanager
def _speaking_for(worker_id: str, principal: Principal, database: Database) -> Iterator[Session]:
    """A transaction for that worker. Raises ApiError 403 where it registered with another token, which is in use."""
    with database.write() as session:
        owner = session.scalar(select(Worker.token_id).where(Worker.id == worker_id))
        refuse_other(session, owner, principal)
        yield session


RunId = Annotated[str, Path(max_length=64, pattern=r"^[A-Za-z0-9-]+$")]

_FENCED: dict[int | str, dict[str, Any]] = {409: {"description": "The run is no longer this attempt's"}}


@router.post("/register")
def register(
    registration: Registration,
    principal: WorkerDep,
    database: DatabaseDep,
    settings: SettingsDep,
    waker: WakerDep,
) -> Registered:
    """Enter a worker. Runs that it holds from an earlier life go back to the queue at once."""
    with database.write() as session:
        answer = workers.register(session, registration, principal, settings)
    waker.wake()
    return answer


@router.post("/{worker_id}/heartbeat")
def heartbeat(
    worker_id: WorkerId, principal: WorkerDep, beat: Heartbeat, database: DatabaseDep, settings: SettingsDep
) -> HeartbeatReply:
    """Renew the leases of the runs named, and learn what to do with each. 404: register first."""
    with _speaking_for(worker_id, principal, database) as session:
        return workers.heartbeat(session, worker_id, beat, settings)


@router.post("/{worker_id}/claim")
def claim_run(
    worker_id: WorkerId,
    principal: WorkerDep,
    database: DatabaseDep,
    settings: SettingsDep,
    request: ClaimRequest | None = None,
) -> ClaimReply:
    """Take the best eligible run, under a lease; with the key of an earlier request, what that was given. 404: register
    first."""
    with _speaking_for(worker_id, principal, database) as session:
        return ClaimReply(claim=claim(session, worker_id, request or ClaimRequest(), settings))


@router.post(
    "/{worker_id}/runs/{run_id}/events", response_model=EventReply, responses=_FENCED, openapi_extra=EVENTS_BODY
)
def events(worker_id: WorkerId, principal: WorkerDep, run_id: RunId, body: RawDep, database: DatabaseDep) -> Response:
    """Report what the training said. 409: the run is no longer this attempt's, and its process is to be ended."""
    batch = parsed(EventBatch, body)
    with database.write() as session:
        reply = EventReply(accepted_seq=reports.take_events(session, worker_id, run_id, batch, principal))
    return Response(reply.model_dump_json(), media_type="application/json")  # the framework would validate it again


@router.post("/{worker_id}/runs/{run_id}/finish", status_code=204, responses=_FENCED)
def finish(
    worker_id: WorkerId,
    principal: WorkerDep,
    run_id: RunId,
    outcome: Outcome,
    database: DatabaseDep,
    settings: SettingsDep,
    waker: WakerDep,
) -> None:
    """The attempt has ended. The same again changes nothing; 409 where the run is no longer this attempt's."""
    with _speaking_for(worker_id, principal, database) as session:
        reports.take_outcome(session, worker_id, run_id, outcome, settings)
    waker.wake()
