"""The protocol of ``core.protocol.worker``: register, heartbeat, claim, report, finish."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Path
from sqlalchemy import Connection, select
from sqlalchemy.orm import Session

from backend.api.dependencies import works
from backend.api.protocol_route import ProtocolRequest, ProtocolRoute
from backend.db import session_on
from backend.db.models import Worker
from backend.queue import worker_registry, worker_reports
from backend.queue.claim import claim
from backend.tokens import refuse_other
from core.protocol.worker import (
    ClaimReply,
    ClaimRequest,
    EventBatch,
    EventReply,
    Heartbeat,
    HeartbeatReply,
    Outcome,
    Registration,
    RegistrationReply,
)

router = APIRouter(prefix="/worker", tags=["worker protocol"], route_class=ProtocolRoute, dependencies=[works])

R = TypeVar("R")
Id = Annotated[str, Path(max_length=64, pattern=r"^[A-Za-z0-9-]+$")]

_FENCED: dict[int | str, dict[str, Any]] = {409: {"description": "This is no longer the current attempt of the run"}}


@router.post("/register")
async def register(request: ProtocolRequest, registration: Registration) -> RegistrationReply:
    """Register a worker. Runs that it holds from an earlier process return to the queue at once."""

    def work(connection: Connection) -> RegistrationReply:
        with session_on(connection) as session:
            return worker_registry.register(session, registration, request.principal, request.settings)

    reply = await request.database.write_async(work)
    request.nudges.request()
    return reply


@router.post("/{worker_id}/heartbeat")
async def heartbeat(request: ProtocolRequest, worker_id: Id, beat: Heartbeat) -> HeartbeatReply:
    """Renew the leases of the named runs, and return an order for each. 404: register first."""
    return await _write_as(
        request, worker_id, lambda session: worker_registry.heartbeat(session, worker_id, beat, request.settings)
    )


@router.post("/{worker_id}/claim")
async def claim_run(request: ProtocolRequest, worker_id: Id, claim_request: ClaimRequest | None = None) -> ClaimReply:
    """Claim the best eligible run under a lease. A request with the key of an earlier one gets the same answer.

    404: register first.
    """
    return await _write_as(
        request,
        worker_id,
        lambda session: ClaimReply(claim=claim(session, worker_id, claim_request or ClaimRequest(), request.settings)),
    )


@router.post("/{worker_id}/runs/{run_id}/events", responses=_FENCED)
async def events(request: ProtocolRequest, worker_id: Id, run_id: Id, batch: EventBatch) -> EventReply:
    """Report events of a training. 409: this is no longer the run's current attempt; the worker ends the training."""
    seq = await request.database.write_async(
        lambda connection: worker_reports.ingest_events(connection, worker_id, run_id, batch, request.principal)
    )
    return EventReply(accepted_seq=seq)


@router.post("/{worker_id}/runs/{run_id}/finish", status_code=204, responses=_FENCED)
async def finish(request: ProtocolRequest, worker_id: Id, run_id: Id, outcome: Outcome) -> None:
    """Report the end of an attempt. Repeating has no effect. 409: this is no longer the run's current attempt."""
    await _write_as(
        request,
        worker_id,
        lambda session: worker_reports.record_outcome(session, worker_id, run_id, outcome, request.settings),
    )
    request.nudges.request()


async def _write_as(request: ProtocolRequest, worker_id: str, work: Callable[[Session], R]) -> R:
    """Run ``work`` in a writing transaction for a worker.

    Raises:
        ApiError: 403 if the worker registered with another token that is still in use.
    """

    def checked(connection: Connection) -> R:
        with session_on(connection) as session:
            owner = session.scalar(select(Worker.token_id).where(Worker.id == worker_id))
            refuse_other(connection, owner, request.principal)
            return work(session)

    return await request.database.write_async(checked)
