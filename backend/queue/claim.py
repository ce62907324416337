"""Who takes which run: the claim, the GPUs kept free for a large run, and what a claim hands to the worker."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError
from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.orm import Session

from backend.db import now
from backend.db.models import Attempt, Run, Worker
from backend.errors import not_found
from backend.queue.eligibility import WorkerCapacity, eligible_for, is_ready
from backend.queue.lifecycle import LEASED_STATES, end_run, lock_runs
from backend.settings import Settings
from core.protocol.worker import ArtifactRef, Claim, ClaimRequest
from core.specs import RunSpec, problems_of


def count_eligible(session: Session, worker: Worker, moment: datetime) -> int:
    """Runs that the worker could take now, were all its slots free; none while it is draining."""
    if worker.draining:
        return 0
    wanted = and_(is_ready(moment), eligible_for(WorkerCapacity.of(worker)))
    return session.scalars(select(func.count()).select_from(Run).where(wanted)).one()


def attempt_folder(run_id: str, attempt: int) -> str:
    """Where an attempt's files are in the artifact store. An old attempt's late writes cannot meet a new one's."""
    return f"runs/{run_id}/attempt-{attempt}"


def lock_worker(session: Session, worker_id: str) -> Worker:
    """The worker, locked. Raises ApiError 404: it is then to register."""
    # A key-share lock lets runs that refer to it be written meanwhile.
    worker = session.get(Worker, worker_id, with_for_update={"key_share": True}, populate_existing=True)
    if worker is None:
        raise not_found("worker", worker_id)
    return worker


def claim(session: Session, worker_id: str, request: ClaimRequest, settings: Settings) -> Claim | None:
    """Give the worker the best eligible run, under a lease and a new attempt number; None where there is none.

    Highest priority first, then the oldest. On PostgreSQL claims pass over rows that another claim has locked; on
    SQLite the transaction is the only writer. The worker's own claims wait for each other, so that one that is sent
    twice, since its answer was lost, meets what it has made.
    """
    worker = lock_worker(session, worker_id)
    moment = now(session)
    if request.key is not None:
        made = session.scalars(
            select(Attempt).where(Attempt.worker_id == worker_id, Attempt.claim_key == request.key)
        ).one_or_none()
        if made is not None:
            return _again(session, made, settings, moment)
    if worker.draining or worker.slots <= _slots_taken(session, worker):
        return None
    query = (
        select(Run)
        .where(_takeable(session, worker, request, settings, moment))
        .order_by(Run.priority.desc(), Run.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    while True:
        run = session.scalars(query).one_or_none()
        if run is None:
            return None
        try:
            spec = RunSpec.model_validate(run.spec)
            teacher = _teacher(session, run)
            break
        except ValidationError as error:  # as when it names an entry of a plugin that is no longer loaded
            text = "; ".join(map(str, problems_of(error)))
            end_run(session, run, "failed", f"this backend cannot read the run's spec: {text}", moment)
            session.flush()
    ready_since = max(run.queued_at or run.created_at, run.not_before or run.created_at)
    run.state, run.reason = "running", ""
    run.attempt += 1
    run.worker_id = worker.id
    run.lease_expires_at = moment + timedelta(seconds=settings.lease_seconds)
    run.not_before = None
    run.started_at = run.started_at or moment
    if worker.reserved_run_id == run.id:
        worker.reserved_run_id = None
    session.add(
        Attempt(
            run_id=run.id,
            number=run.attempt,
            worker_id=worker.id,
            worker_name=worker.name,
            host=worker.host,
            started_at=moment,
            claim_key=request.key,
            waited=max((moment - ready_since).total_seconds(), 0.0),
        )
    )
    return _handed_over(run, spec, teacher, settings)


def _slots_taken(session: Session, worker: Worker) -> int:
    """Slots of the runs that the worker holds. It counts them itself too; a worker that lies gets no more than it has.

    A slot is free again once the end of its run has been reported, has been taken away, or its lease has ended.
    """
    held = select(func.coalesce(func.sum(Run.gpus), 0)).where(Run.worker_id == worker.id, Run.state.in_(LEASED_STATES))
    return int(session.scalars(held).one())


def _again(session: Session, made: Attempt, settings: Settings, moment: datetime) -> Claim | None:
    """What this request was given before; None where that is over, since a late copy of it must not take another."""
    run = lock_runs(session, Run.id == made.run_id)[0]
    if run.attempt != made.number or run.worker_id != made.worker_id or run.state not in LEASED_STATES:
        return None
    # The worker counts its lease from the sending of the request that was answered.
    run.lease_expires_at = moment + timedelta(seconds=settings.lease_seconds)
    return _handed_over(run, RunSpec.model_validate(run.spec), _teacher(session, run), settings)


def _takeable(
    session: Session, worker: Worker, request: ClaimRequest, settings: Settings, moment: datetime
) -> ColumnElement[bool]:
    """Runs that the worker may take now, with the GPUs that it has free."""
    wanted = and_(is_ready(moment), eligible_for(WorkerCapacity.of(worker)))
    if worker.device != "gpu":
        return wanted
    free = min(1 if request.free_gpus is None else request.free_gpus, worker.slots - _slots_taken(session, worker))
    usable = worker.gpus if request.usable_gpus is None else request.usable_gpus
    kept_for = _reservation(session, worker, and_(wanted, Run.gpus <= usable), free, settings, moment)
    wanted = and_(wanted, Run.gpus <= free)
    if kept_for is None:
        return wanted
    # What is urgent to people goes before what has waited long.
    return and_(wanted, or_(Run.id == kept_for.id, Run.priority > kept_for.priority))


def _reservation(
    session: Session, worker: Worker, wanted: ColumnElement[bool], free: int, settings: Settings, moment: datetime
) -> Run | None:
    """The run that the worker keeps its GPUs for as they become free; None where any run may have them.

    A run over several GPUs would never find them free at once on a worker that smaller ones keep busy. Once it has
    waited ``reserve_after_seconds``, the first worker that asks for work and is large enough gives nothing else out,
    until it is claimed. A worker keeps GPUs for one run at a time, and a run has them kept by one worker, so that two
    such runs cannot hold a part each and wait for the other's.

    Args:
        wanted: what the worker could take if all GPUs that it can use were free.
    """
    if worker.reserved_run_id is not None:
        kept_for = session.scalars(select(Run).where(wanted, Run.id == worker.reserved_run_id)).one_or_none()
        if kept_for is not None:
            return kept_for
        worker.reserved_run_id = None
    elsewhere = select(Worker.reserved_run_id).where(
        Worker.reserved_run_id.is_not(None), Worker.state == "online", ~Worker.draining, Worker.id != worker.id
    )
    long_ago = moment - timedelta(seconds=settings.reserve_after_seconds)
    query = (
        select(Run)
        .where(wanted, Run.gpus > max(free, 1), Run.queued_at <= long_ago, Run.id.not_in(elsewhere))
        .order_by(Run.priority.desc(), Run.id)
        .limit(1)
    )
    kept_for = session.scalars(query).one_or_none()
    if kept_for is not None:
        worker.reserved_run_id = kept_for.id
    return kept_for


def _handed_over(run: Run, spec: RunSpec, teacher: dict[str, Any], settings: Settings) -> Claim:
    return Claim(
        run_id=run.id,
        attempt=run.attempt,
        spec=spec.model_dump(mode="json"),
        lease_seconds=settings.lease_seconds,
        folder=attempt_folder(run.id, run.attempt),
        gpus=run.gpus,
        checkpoint=ArtifactRef(path=run.checkpoint_path) if run.checkpoint_path else None,
        **teacher,
    )


def _teacher(session: Session, run: Run) -> dict[str, Any]:
    if run.teacher_run_id is None:
        return {}
    teacher = session.get_one(Run, run.teacher_run_id)
    return {
        "teacher": ArtifactRef(path=teacher.weights_path, sha256=teacher.weights_sha256),
        "teacher_spec": RunSpec.model_validate(teacher.spec).model_dump(mode="json"),
    }
