"""The account of used slots: who used how many, in which project, and for how long.

A quota or a share that is summed over runs could be evaded: a deleted run would have used nothing, and a moved one
would have used the other project's hours. So the claim that starts an attempt writes a row, which only the end of the
attempt and a move of the run change, and which is removed when it is older than ``WINDOW``.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, case, func, insert, literal, or_, select, update
from sqlalchemy.orm import Session

from backend.db.models import QueueLane, Run, SlotUsage, Worker
from backend.db.types import seconds_between

WINDOW = timedelta(days=7)
"""The time for which use counts."""


def begin(session: Session, run: Run, worker: Worker, timestamp: datetime) -> None:
    """Record that the run's current attempt takes slots of a worker from now on.

    Args:
        session: The claim's transaction.
        run: The run, with the number of the new attempt.
        worker: The worker.
        timestamp: Time of the claim.
    """
    values: dict[str, Any] = {
        "run_id": literal(run.id),
        "attempt": literal(run.attempt),
        "owner": QueueLane.owner,
        "project": QueueLane.project,
        "device": literal(worker.device),
        "slots": literal(run.gpus),
        "started_at": literal(timestamp, SlotUsage.started_at.type),
    }
    of_lane = select(*values.values()).where(QueueLane.id == run.lane_id)
    session.execute(insert(SlotUsage).from_select(list(values), of_lane))


def end(session: Session, run_id: str, attempt: int, timestamp: datetime) -> None:
    """Record that an attempt takes no slots any more."""
    of_attempt = (SlotUsage.run_id == run_id) & (SlotUsage.attempt == attempt)
    statement = update(SlotUsage).where(of_attempt, SlotUsage.ended_at.is_(None)).values(ended_at=timestamp)
    session.execute(statement.execution_options(synchronize_session=False))


def divide_open(session: Session, condition: ColumnElement[bool], project: str, timestamp: datetime) -> None:
    """Count the attempts that train for another project from now on; what they have used stays where it is.

    Args:
        session: The transaction of the move, in which the runs are locked.
        condition: The runs.
        project: Name of their new project.
        timestamp: Time of the move.
    """
    of_runs = select(SlotUsage).where(
        SlotUsage.ended_at.is_(None),
        SlotUsage.project != project,
        SlotUsage.run_id.in_(select(Run.id).where(condition)),
    )
    for before in session.scalars(of_runs.order_by(SlotUsage.id)).all():
        before.ended_at = timestamp
        session.add(
            SlotUsage(
                run_id=before.run_id,
                attempt=before.attempt,
                owner=before.owner,
                project=project,
                device=before.device,
                slots=before.slots,
                started_at=timestamp,
            )
        )
    session.flush()


def in_window(timestamp: datetime) -> ColumnElement[bool]:
    """Return the condition of the rows that count at this time."""
    return or_(SlotUsage.ended_at.is_(None), SlotUsage.ended_at > timestamp - WINDOW)


def slot_seconds(timestamp: datetime) -> ColumnElement[float]:
    """Return the sum of the seconds since ``WINDOW`` before this time, times their slots."""
    since = timestamp - WINDOW
    start = case((SlotUsage.started_at < since, since), else_=SlotUsage.started_at)
    seconds = seconds_between(start, func.coalesce(SlotUsage.ended_at, timestamp))
    return func.sum(seconds * SlotUsage.slots)
