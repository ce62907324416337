"""Workers as they come and stay: registration and heartbeats."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend.db import now
from backend.db.models import Run, Worker
from backend.db.serialized import Turn, take_turn
from backend.db.upsert import insert_if_absent
from backend.errors import conflict, not_found
from backend.queue.claim import count_eligible, lock_worker
from backend.queue.lifecycle import LEASED_STATES, lock_runs, requeue_lost
from backend.settings import Settings
from backend.tokens import Principal, refuse_other
from core.protocol.worker import Heartbeat, HeartbeatReply, Order, Registered, Registration


def register(session: Session, registration: Registration, principal: Principal, settings: Settings) -> Registered:
    """Enter a worker, or meet it again. Runs that it holds from an earlier life go back to the queue at once.

    Raises ApiError 403 where it registered with another token that is still in use, or 409 where the workers of this
    token have too many slots together.
    """
    # Two at once would take one name, and more slots together than a token has.
    take_turn(session.connection(), Turn.REGISTRATIONS)
    _refuse_too_many(session, registration, principal, settings)
    moment = now(session)
    values = {
        "name": _distinct_name(session, registration),
        "host": registration.host,
        "slots": registration.slots,
        "device": registration.device,
        "gpus": (registration.gpus or registration.slots) if registration.device == "gpu" else 0,
        "labels": sorted(set(registration.labels)),
        "report": {},
        "reserved_run_id": None,
        "version": registration.version,
        "state": "online",
        "last_heartbeat": moment,
        "token_id": principal.token_id,
    }
    new = {"id": registration.worker_id, "registered_at": moment, **values}
    if not insert_if_absent(session.connection(), Worker, new, unique=["id"]):
        worker = session.get_one(Worker, registration.worker_id, with_for_update={"key_share": True})
        refuse_other(session.connection(), worker.token_id, principal)
        for name, value in values.items():
            setattr(worker, name, value)
        held = lock_runs(session, (Run.worker_id == worker.id) & Run.state.in_(LEASED_STATES))
        requeue_lost(session, held, settings, f"worker {worker.name} was restarted", moment)
    return Registered(heartbeat_seconds=settings.heartbeat_seconds, lease_seconds=settings.lease_seconds)


def heartbeat(session: Session, worker_id: str, beat: Heartbeat, settings: Settings) -> HeartbeatReply:
    """Renew the leases of the runs that are still this worker's, and say what to do with each run it named."""
    worker = lock_worker(session, worker_id)
    moment = now(session)
    worker.last_heartbeat = moment
    worker.state = "online"
    worker.report = {
        "gpus": [gpu.model_dump() for gpu in beat.gpus],
        "problems": beat.problems,
    }
    named = [holding.run_id for holding in beat.holding]
    runs = {run.id: run for run in lock_runs(session, Run.id.in_(named))} if named else {}
    orders: list[Order] = []
    for holding in beat.holding:
        run = runs.get(holding.run_id)
        if (
            run is None
            or run.worker_id != worker_id
            or run.attempt != holding.attempt
            or run.state not in LEASED_STATES
        ):
            orders.append(Order(run_id=holding.run_id, attempt=holding.attempt, order="lost"))
            continue
        run.lease_expires_at = moment + timedelta(seconds=settings.lease_seconds)
        going_on = run.state == "running"
        orders.append(
            Order(
                run_id=run.id,
                attempt=run.attempt,
                order="continue" if going_on else "cancel",
                pause=going_on and run.pausing,
            )
        )
    return HeartbeatReply(orders=orders, eligible=count_eligible(session, worker, moment))


def drain(session: Session, key: str, draining: bool) -> None:
    """Let a worker take no new runs, or let it again. What it has goes on. Doing it twice changes nothing.

    Args:
        key: its id, or its name; of several with one name the one that is online is meant.

    Raises ApiError 404, or 409 where several have that name.
    """
    worker = session.get(Worker, key) or _named(session, key)
    worker.draining = draining
    if draining:
        worker.reserved_run_id = None


def _named(session: Session, name: str) -> Worker:
    found = list(session.scalars(select(Worker).where(Worker.name == name).order_by(Worker.id)))
    found = [worker for worker in found if worker.state == "online"] or found
    if not found:
        raise not_found("worker", name)
    if len(found) > 1:
        raise conflict(
            f"{len(found)} workers are named {name!r}: {', '.join(worker.id for worker in found)}; give an id"
        )
    return found[0]


def _refuse_too_many(session: Session, registration: Registration, principal: Principal, settings: Settings) -> None:
    others = select(func.coalesce(func.sum(Worker.slots), 0)).where(
        Worker.token_id == principal.token_id, Worker.state == "online", Worker.id != registration.worker_id
    )
    taken = session.scalars(others).one()
    if taken + registration.slots > settings.max_token_slots:
        raise conflict(
            f"the workers of one token have at most {settings.max_token_slots} slots together, and {taken} are taken; "
            "give further workers a token of their own, or raise DKD_MAX_TOKEN_SLOTS"
        )


def _distinct_name(session: Session, registration: Registration) -> str:
    """The name asked for; with the end of the id behind it where a live worker has that name."""
    name = registration.name
    query = select(Worker.id).where(Worker.name == name, Worker.state == "online", Worker.id != registration.worker_id)
    return f"{name}-{registration.worker_id[-6:]}" if session.scalars(query).first() else name
