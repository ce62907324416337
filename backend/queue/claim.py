"""Claims: the choice of a run for a worker, GPUs reserved for large runs, and the reply to the worker."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError
from sqlalchemy import ColumnElement, and_, func, select
from sqlalchemy.orm import Session

from backend.db import now
from backend.db.models import Attempt, QueueLane, Run, Worker
from backend.errors import not_found
from backend.queue import quotas, usage
from backend.queue.eligibility import WorkerCapacity, eligible_for, is_ready
from backend.queue.fair_share import lanes_in_turn
from backend.queue.lanes import WaitingLane, count_waiting, waiting_lanes
from backend.queue.leased import LEASED_STATES
from backend.queue.lifecycle import end_run, lock_runs
from backend.queue.teacher_links import direct_teachers, students_of
from backend.settings import Settings
from core.protocol.worker import ArtifactRef, Claim, ClaimRequest, TeacherRef
from core.specs import RunSpec, problems_of
from core.specs.grouping import group_key

_SEEDS = ("seed", "data_seed", "teacher", "further_teachers")
"""Fields of a run's spec that are left out when kinds of runs are told apart."""
_MOST_KINDS = 50


def count_eligible(session: Session, worker: Worker, timestamp: datetime) -> int:
    """Return the number of runs that the worker could claim if all its slots were free, at most its slots.

    0 while it is draining.
    """
    if worker.draining:
        return 0
    connection = session.connection()
    lanes = waiting_lanes(connection, eligible_for(WorkerCapacity.of(worker)), timestamp)
    state = quotas.without_locks(connection, lanes, timestamp)
    open_lanes = [lane for lane in lanes if state.admits(lane, worker.device)]
    return count_waiting(connection, open_lanes, timestamp, worker.slots)


def attempt_folder(run_id: str, attempt: int) -> str:
    """Return the folder of an attempt's files in the artifact store.

    Each attempt has a separate folder, so that an old attempt cannot overwrite the files of a new attempt.
    """
    return f"runs/{run_id}/attempt-{attempt}"


def lock_worker(session: Session, worker_id: str) -> Worker:
    """Lock a worker's row.

    Raises:
        ApiError: 404 if there is no such worker; it then has to register.
    """
    # A key-share lock permits writes to runs that refer to the worker.
    worker = session.get(Worker, worker_id, with_for_update={"key_share": True}, populate_existing=True)
    if worker is None:
        raise not_found("worker", worker_id)
    return worker


def claim(session: Session, worker_id: str, request: ClaimRequest, settings: Settings) -> Claim | None:
    """Lease the best eligible run to the worker and start a new attempt.

    It is a run of the owner whose turn it is (``backend.queue.fair_share``), the one of the highest priority, and of
    these the oldest. On PostgreSQL a claim skips rows that another claim has locked; on SQLite the
    transaction is the only writer. Claims of one worker wait for each other, so that a repeated request (the first
    reply was lost) finds the attempt that it has started.

    Args:
        session: A write transaction.
        worker_id: The worker.
        request: Its free GPUs, and a key that identifies the request.
        settings: The backend's settings.

    Returns:
        The claim, or None if no run is eligible.

    Raises:
        ApiError: 404 if there is no such worker.
    """
    worker = lock_worker(session, worker_id)
    timestamp = now(session)
    if request.key is not None:
        previous = session.scalars(
            select(Attempt).where(Attempt.worker_id == worker_id, Attempt.claim_key == request.key)
        ).one_or_none()
        if previous is not None:
            return _repeat_claim(session, previous, settings, timestamp)
    if worker.draining or worker.slots <= _leased_slots(session, worker):
        return None
    while True:
        run = _next_run(session, worker, request, settings, timestamp)
        if run is None:
            return None
        try:
            spec = RunSpec.model_validate(run.spec)
            teacher = _teacher_fields(session, run)
            break
        except ValidationError as error:  # such as an entry of a plugin that is no longer loaded
            text = "; ".join(map(str, problems_of(error)))
            end_run(session, run, "failed", f"this backend cannot read the run's spec: {text}", timestamp)
            session.flush()
    ready_since = max(run.queued_at or run.created_at, run.not_before or run.created_at)
    run.state, run.reason = "running", ""
    run.attempt += 1
    run.worker_id = worker.id
    run.lease_expires_at = timestamp + timedelta(seconds=settings.lease_seconds)
    run.not_before = None
    run.started_at = run.started_at or timestamp
    if worker.reserved_run_id == run.id:
        worker.reserved_run_id = None
    session.add(
        Attempt(
            run_id=run.id,
            number=run.attempt,
            worker_id=worker.id,
            worker_name=worker.name,
            host=worker.host,
            started_at=timestamp,
            claim_key=request.key,
            waited=max((timestamp - ready_since).total_seconds(), 0.0),
        )
    )
    usage.begin(session, run, worker, timestamp)
    return _claim_reply(session, run, spec, teacher, settings)


def _next_run(
    session: Session, worker: Worker, request: ClaimRequest, settings: Settings, timestamp: datetime
) -> Run | None:
    """Lock the best run that the worker may claim and that no other claim has locked; None if there is none."""
    capacity = WorkerCapacity.of(worker)
    lanes = _open_lanes(session, worker.device, eligible_for(capacity), timestamp)
    if worker.device != "gpu":
        return _best_run(session, lanes, timestamp)
    free = min(1 if request.free_gpus is None else request.free_gpus, worker.slots - _leased_slots(session, worker))
    usable = worker.gpus if request.usable_gpus is None else request.usable_gpus
    reserved = _reservation(session, worker, [lane for lane in lanes if lane.gpus <= usable], free, settings, timestamp)
    fitting = [lane for lane in lanes if lane.gpus <= free]
    if reserved is None:
        return _best_run(session, fitting, timestamp)
    # Priority, which people set for their own runs, goes before waiting time.
    own = [lane for lane in fitting if lane.owner == reserved.owner and lane.priority > reserved.priority]
    preferred = _best_run(session, own, timestamp, Run.priority > reserved.priority)
    if preferred is not None or reserved.gpus > free:
        return preferred
    return session.scalars(
        select(Run).where(Run.id == reserved.id, is_ready(timestamp)).with_for_update(skip_locked=True)
    ).one_or_none()


def _open_lanes(
    session: Session,
    device: str,
    condition: ColumnElement[bool],
    timestamp: datetime,
) -> list[WaitingLane]:
    """Return the lanes with waiting runs of projects whose quotas are not used up."""
    connection = session.connection()
    lanes = waiting_lanes(connection, condition, timestamp)
    state = quotas.for_claim(connection, lanes, timestamp, device)
    return [lane for lane in lanes if state.admits(lane, device)]


def _best_run(
    session: Session, lanes: Sequence[WaitingLane], timestamp: datetime, condition: ColumnElement[bool] | None = None
) -> Run | None:
    """Lock the best run of these lanes that no other claim has locked; None if there is none."""
    for lane in lanes_in_turn(session, lanes, timestamp):
        query = select(Run).where(Run.lane_id == lane.id, is_ready(timestamp))
        if condition is not None:
            query = query.where(condition)
        query = query.order_by(Run.priority.desc(), Run.id).limit(1).with_for_update(skip_locked=True)
        run = session.scalars(query).one_or_none()
        if run is not None:
            return run
    return None


def _leased_slots(session: Session, worker: Worker) -> int:
    """Return the number of slots that the worker's runs occupy.

    The worker counts them too, but a worker that miscounts must not get more runs than it has slots. A slot is free
    after the run's end was reported, the run was taken away or its lease has expired.
    """
    leased_gpus = select(func.coalesce(func.sum(Run.gpus), 0)).where(
        Run.worker_id == worker.id, Run.state.in_(LEASED_STATES)
    )
    return int(session.scalars(leased_gpus).one())


def _repeat_claim(session: Session, previous: Attempt, settings: Settings, timestamp: datetime) -> Claim | None:
    """Return the claim that this request got before; None if that attempt is over.

    A late copy of the request must not claim another run.
    """
    run = lock_runs(session, Run.id == previous.run_id)[0]
    if run.attempt != previous.number or run.worker_id != previous.worker_id or run.state not in LEASED_STATES:
        return None
    # The worker measures its lease from the sending of the request that got a reply.
    run.lease_expires_at = timestamp + timedelta(seconds=settings.lease_seconds)
    spec = RunSpec.model_validate(run.spec)
    return _claim_reply(session, run, spec, _teacher_fields(session, run), settings)


def _reservation(
    session: Session,
    worker: Worker,
    lanes: Sequence[WaitingLane],
    free: int,
    settings: Settings,
    timestamp: datetime,
) -> Run | None:
    """Return the run for which the worker reserves its GPUs; None if any run may use them.

    On a worker that small runs keep busy, a run over several GPUs would never find enough of them free. After it has
    waited ``reserve_after_seconds``, the first large enough worker that claims reserves its GPUs for it and gets no
    other run until then. A worker reserves for one run at a time, and a run is reserved by one worker, so that two
    such runs cannot each hold a part of the GPUs and wait for the other's.

    Args:
        session: A write transaction.
        worker: The worker, locked.
        lanes: Lanes with runs that the worker could claim if all its usable GPUs were free.
        free: Number of its free GPUs.
        settings: The backend's settings.
        timestamp: The database's time.
    """
    if worker.reserved_run_id is not None:
        of_lanes = Run.lane_id.in_([lane.id for lane in lanes])
        kept = select(Run).where(Run.id == worker.reserved_run_id, is_ready(timestamp), of_lanes)
        reserved = session.scalars(kept).one_or_none()
        if reserved is not None:
            return reserved
        worker.reserved_run_id = None
    large = [lane.id for lane in lanes if lane.gpus > max(free, 1)]
    if not large:
        return None
    reserved_by_others = select(Worker.reserved_run_id).where(
        Worker.reserved_run_id.is_not(None), Worker.state == "online", ~Worker.draining, Worker.id != worker.id
    )
    waiting_since = timestamp - timedelta(seconds=settings.reserve_after_seconds)
    long_waiting = and_(Run.queued_at <= waiting_since, Run.id.not_in(reserved_by_others))
    candidates = waiting_lanes(session.connection(), QueueLane.id.in_(large), timestamp, long_waiting)
    for lane in lanes_in_turn(session, candidates, timestamp)[:1]:
        worker.reserved_run_id = lane.head
        return session.get_one(Run, lane.head)
    return None


def _claim_reply(session: Session, run: Run, spec: RunSpec, teacher: dict[str, Any], settings: Settings) -> Claim:
    students = _waiting_students(session, run) if run.role == "teacher" and not run.checkpoint_path else []
    return Claim(
        run_id=run.id,
        attempt=run.attempt,
        spec=spec.model_dump(mode="json"),
        lease_seconds=settings.lease_seconds,
        folder=attempt_folder(run.id, run.attempt),
        gpus=run.gpus,
        checkpoint=ArtifactRef(path=run.checkpoint_path) if run.checkpoint_path else None,
        students=students,
        # After a lost attempt a run trains alone: it may be what ended the process, or have found no memory there.
        group="" if run.faults else group_key(spec),
        **teacher,
    )


def _waiting_students(session: Session, teacher: Run) -> list[dict[str, Any]]:
    """Return the specs of runs that wait for a teacher, one of those that differ in their seeds alone.

    None are returned if they are more than a training would check: it must not take some of them for all.
    """
    waiting = select(Run.spec).where(students_of(teacher.id), Run.state.in_(("waiting", "paused"))).order_by(Run.id)
    kinds: dict[str, Any] = {}
    for spec in session.scalars(waiting):
        kind = json.dumps({name: value for name, value in spec.items() if name not in _SEEDS}, sort_keys=True)
        kinds.setdefault(kind, spec)
        if len(kinds) > _MOST_KINDS:
            return []
    students = []
    for spec in kinds.values():
        try:
            students.append(RunSpec.model_validate(spec).model_dump(mode="json"))
        except ValidationError:  # such as an entry of a plugin that is no longer loaded; its own claim says so
            continue
    return students


def _teacher_fields(session: Session, run: Run) -> dict[str, Any]:
    if run.teacher_run_id is None:
        return {}
    first, *further = (_teacher_ref(session.get_one(Run, key)) for key in direct_teachers(session, [run.id])[run.id])
    return {"teacher": first.weights, "teacher_spec": first.spec, "further_teachers": further}


def _teacher_ref(teacher: Run) -> TeacherRef:
    return TeacherRef(
        weights=ArtifactRef(path=teacher.weights_path, sha256=teacher.weights_sha256),
        spec=RunSpec.model_validate(teacher.spec).model_dump(mode="json"),
    )
