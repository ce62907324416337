"""Registration, heartbeats and draining of workers."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend.db import now
from backend.db.models import Run, Worker
from backend.db.serialized import SerializedTask, serialize
from backend.db.upsert import insert_if_absent
from backend.errors import conflict, not_found
from backend.queue.claim import count_eligible, lock_worker
from backend.queue.leased import LEASED_STATES
from backend.queue.lifecycle import lock_runs, requeue_lost
from backend.settings import Settings
from backend.tokens import Principal, refuse_other
from core.protocol.worker import Heartbeat, HeartbeatReply, Registration, RegistrationReply, RunOrder


def register(
    session: Session, registration: Registration, principal: Principal, settings: Settings
) -> RegistrationReply:
    """Register a worker, or register it again after a restart.

    Runs that the worker held before the restart return to the queue at once.

    Raises:
        ApiError: 403 if the worker registered with another token that is still in use, or 409 if the workers of this
            token have too many slots in total.
    """
    # Serialized: concurrent registrations could get the same name, and exceed the slots of their token.
    serialize(session.connection(), SerializedTask.REGISTRATIONS)
    _refuse_too_many_slots(session, registration, principal, settings)
    timestamp = now(session)
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
        "last_heartbeat": timestamp,
        "token_id": principal.token_id,
    }
    new = {"id": registration.worker_id, "registered_at": timestamp, **values}
    if not insert_if_absent(session.connection(), Worker, new, unique=["id"]):
        worker = session.get_one(Worker, registration.worker_id, with_for_update={"key_share": True})
        refuse_other(session.connection(), worker.token_id, principal)
        for name, value in values.items():
            setattr(worker, name, value)
        leased = lock_runs(session, (Run.worker_id == worker.id) & Run.state.in_(LEASED_STATES))
        requeue_lost(session, leased, settings, f"worker {worker.name} was restarted", timestamp)
    return RegistrationReply(heartbeat_seconds=settings.heartbeat_seconds, lease_seconds=settings.lease_seconds)


def heartbeat(session: Session, worker_id: str, report: Heartbeat, settings: Settings) -> HeartbeatReply:
    """Renew the leases of the worker's runs, and return an order for each run in the heartbeat.

    Raises:
        ApiError: 404 if there is no such worker.
    """
    worker = lock_worker(session, worker_id)
    timestamp = now(session)
    worker.last_heartbeat = timestamp
    worker.state = "online"
    worker.report = {
        "gpus": [gpu.model_dump() for gpu in report.gpus],
        "problems": report.problems,
    }
    run_ids = [holding.run_id for holding in report.holding]
    runs = {run.id: run for run in lock_runs(session, Run.id.in_(run_ids))} if run_ids else {}
    orders: list[RunOrder] = []
    for holding in report.holding:
        run = runs.get(holding.run_id)
        if (
            run is None
            or run.worker_id != worker_id
            or run.attempt != holding.attempt
            or run.state not in LEASED_STATES
        ):
            orders.append(RunOrder(run_id=holding.run_id, attempt=holding.attempt, order="lost"))
            continue
        run.lease_expires_at = timestamp + timedelta(seconds=settings.lease_seconds)
        continues = run.state == "running"
        orders.append(
            RunOrder(
                run_id=run.id,
                attempt=run.attempt,
                order="continue" if continues else "cancel",
                pause=continues and run.pausing,
            )
        )
    return HeartbeatReply(orders=orders, eligible=count_eligible(session, worker, timestamp))


def drain(session: Session, key: str, draining: bool) -> None:
    """Set whether a worker is draining: it keeps its runs and accepts no new ones. Idempotent.

    Args:
        session: A write transaction.
        key: The worker's id or name. If several workers have the name, the online worker is used.
        draining: Whether the worker accepts no new runs.

    Raises:
        ApiError: 404 if there is no such worker, or 409 if several have that name.
    """
    worker = session.get(Worker, key) or _find_by_name(session, key)
    worker.draining = draining
    if draining:
        worker.reserved_run_id = None


def _find_by_name(session: Session, name: str) -> Worker:
    workers = list(session.scalars(select(Worker).where(Worker.name == name).order_by(Worker.id)))
    workers = [worker for worker in workers if worker.state == "online"] or workers
    if not workers:
        raise not_found("worker", name)
    if len(workers) > 1:
        raise conflict(
            f"{len(workers)} workers are named {name!r}: {', '.join(worker.id for worker in workers)}; give an id"
        )
    return workers[0]


def _refuse_too_many_slots(
    session: Session, registration: Registration, principal: Principal, settings: Settings
) -> None:
    other_slots = select(func.coalesce(func.sum(Worker.slots), 0)).where(
        Worker.token_id == principal.token_id, Worker.state == "online", Worker.id != registration.worker_id
    )
    used_slots = session.scalars(other_slots).one()
    if used_slots + registration.slots > settings.max_token_slots:
        raise conflict(
            f"the workers of one token have at most {settings.max_token_slots} slots in total, and {used_slots} are in "
            "use; use another token for further workers, or raise DKD_MAX_TOKEN_SLOTS"
        )


def _distinct_name(session: Session, registration: Registration) -> str:
    """Return the requested name; with the end of the id appended if an online worker has that name."""
    name = registration.name
    query = select(Worker.id).where(Worker.name == name, Worker.state == "online", Worker.id != registration.worker_id)
    return f"{name}-{registration.worker_id[-6:]}" if session.scalars(query).first() else name
