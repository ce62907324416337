"""Who takes which run: eligibility, the claim, and what a claim hands to the worker."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError
from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.orm import Session

from backend.db import now
from backend.db.models import Attempt, Run, Worker
from backend.errors import not_found
from backend.lifecycle import end
from backend.settings import Settings
from core.spec import RunSpec, problems_of
from core.wire.worker import ArtifactRef, Claim


def eligible(device: str, moment: datetime) -> ColumnElement[bool]:
    """Runs that a worker with such slots may claim at this moment."""
    return and_(
        Run.state == "queued",
        or_(Run.not_before.is_(None), Run.not_before <= moment),
        Run.device.in_(("any", device)),
    )


def count_eligible(session: Session, device: str, moment: datetime) -> int:
    return session.scalars(select(func.count()).select_from(Run).where(eligible(device, moment))).one()


def folder_of(run_id: str, attempt: int) -> str:
    """Where an attempt's files are in the artifact store. An old attempt's late writes cannot meet a new one's."""
    return f"runs/{run_id}/attempt-{attempt}"


def find_worker(session: Session, worker_id: str) -> Worker:
    """Raises ApiError 404: the worker is then to register."""
    worker = session.get(Worker, worker_id)
    if worker is None:
        raise not_found("worker", worker_id)
    return worker


def claim(session: Session, worker_id: str, settings: Settings) -> Claim | None:
    """Give the worker the best eligible run, under a lease and a new attempt number; None where there is none.

    Highest priority first, then the oldest. On PostgreSQL claims pass over rows that another claim has locked; on
    SQLite the transaction is the only writer.
    """
    worker = find_worker(session, worker_id)
    moment = now(session)
    query = (
        select(Run)
        .where(eligible(worker.device, moment))
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
            end(session, run, "failed", f"this backend cannot read the run's spec: {text}", moment)
            session.flush()
    run.state, run.reason = "running", ""
    run.attempt += 1
    run.worker_id = worker.id
    run.lease_expires_at = moment + timedelta(seconds=settings.lease_seconds)
    run.not_before = None
    run.started_at = run.started_at or moment
    session.add(
        Attempt(
            run_id=run.id,
            number=run.attempt,
            worker_id=worker.id,
            worker_name=worker.name,
            host=worker.host,
            started_at=moment,
        )
    )
    return Claim(
        run_id=run.id,
        attempt=run.attempt,
        spec=spec,
        lease_seconds=settings.lease_seconds,
        folder=folder_of(run.id, run.attempt),
        checkpoint=ArtifactRef(path=run.checkpoint_path) if run.checkpoint_path else None,
        **teacher,
    )


def _teacher(session: Session, run: Run) -> dict[str, Any]:
    if run.teacher_run_id is None:
        return {}
    teacher = session.get_one(Run, run.teacher_run_id)
    return {
        "teacher": ArtifactRef(path=teacher.weights_path, sha256=teacher.weights_sha256),
        "teacher_spec": RunSpec.model_validate(teacher.spec),
    }
