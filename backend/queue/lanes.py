"""Lanes of the queue: the combinations of owner, project and requirements that runs have.

What decides whether a worker may claim a run now, except its time, is equal for all runs of a lane. A claim therefore
looks at lanes, with one probe of an index for each, and then reads one run, however many runs are queued.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, func, select, tuple_, update
from sqlalchemy.orm import Session, aliased

from backend.db import now
from backend.db.models import QueueLane, Run
from backend.db.upsert import insert_if_absent
from backend.db.visibility import EVERY_PROJECT
from backend.queue import usage
from backend.queue.eligibility import is_ready

TOTALS = {EVERY_PROJECT: True}
"""Execution options of sums over the whole queue, which tell nothing of single runs."""
_UNIQUE = ("owner", "project", "device", "gpus", "labels")

LaneKey = tuple[str, str, str, int, str]
"""Owner, project, device, GPUs and labels, which a lane is unique by."""


@dataclass(frozen=True)
class WaitingLane:
    """A lane with runs that could be claimed.

    Attributes:
        id: The lane's id.
        owner: Its owner.
        project: Its project.
        device: The device that its runs require: any, cpu or gpu.
        gpus: Slots that each of its runs takes.
        priority: Priority of its best run.
        head: Id of its best run.
    """

    id: int
    owner: str
    project: str
    device: str
    gpus: int
    priority: int
    head: str

    @property
    def place(self) -> tuple[int, str]:
        """What orders the lanes of one owner: the priority of the best run, then its age."""
        return -self.priority, self.head


def lane_ids(connection: Connection, keys: Iterable[LaneKey]) -> dict[LaneKey, int]:
    """Return the ids of lanes; missing lanes are inserted.

    Args:
        connection: A write transaction.
        keys: The lanes.
    """
    wanted = sorted(set(keys))  # sorted, so that two transactions that insert the same lanes do not deadlock
    found = _stored(connection, wanted)
    missing = [key for key in wanted if key not in found]
    for key in missing:
        insert_if_absent(connection, QueueLane, dict(zip(_UNIQUE, key, strict=True)), unique=_UNIQUE)
    return found | _stored(connection, missing)


def _stored(connection: Connection, keys: Sequence[LaneKey]) -> dict[LaneKey, int]:
    if not keys:
        return {}
    columns = [getattr(QueueLane, name) for name in _UNIQUE]
    query = select(QueueLane.id, *columns).where(tuple_(*columns).in_(keys))
    return {(row[1], row[2], row[3], row[4], row[5]): row[0] for row in connection.execute(query)}


def set_lane(session: Session, run: Run) -> None:
    """Set the lane of a run whose requirements may have changed; its project stays."""
    lane = session.get_one(QueueLane, run.lane_id)
    if (run.device, run.gpus, run.labels) != (lane.device, lane.gpus, lane.labels):
        key = (lane.owner, lane.project, run.device, run.gpus, run.labels)
        run.lane_id = lane_ids(session.connection(), [key])[key]


def move_runs(session: Session, condition: ColumnElement[bool], project: str) -> None:
    """Move runs to the lanes of another project, in which those that train count from now on.

    Args:
        session: A write transaction.
        condition: The runs.
        project: Name of the project.
    """
    lanes = session.scalars(select(QueueLane).where(QueueLane.id.in_(select(Run.lane_id).where(condition)))).all()
    keys = {lane.id: (lane.owner, project, lane.device, lane.gpus, lane.labels) for lane in lanes}
    ids = lane_ids(session.connection(), keys.values())
    for old, key in sorted(keys.items()):
        if ids[key] != old:
            statement = update(Run).where(condition, Run.lane_id == old).values(lane_id=ids[key])
            session.execute(statement.execution_options(synchronize_session=False))
    usage.divide_open(session, condition, project, now(session))


def waiting_lanes(
    connection: Connection,
    condition: ColumnElement[bool],
    timestamp: datetime,
    of_runs: ColumnElement[bool] | None = None,
) -> list[WaitingLane]:
    """Return the lanes that have a run which waits only for a worker, each with its best run.

    Args:
        connection: A transaction.
        condition: What a lane must fulfil.
        timestamp: The database's time.
        of_runs: What a run must fulfil besides.
    """
    # A scalar subquery with LIMIT: PostgreSQL would turn EXISTS into a join that reads the whole queue.
    best = select(Run.id).where(Run.lane_id == QueueLane.id, is_ready(timestamp))
    if of_runs is not None:
        best = best.where(of_runs)
    best = best.order_by(Run.priority.desc(), Run.id).limit(1).correlate(QueueLane)
    head = aliased(Run)
    columns = (QueueLane.id, QueueLane.owner, QueueLane.project, QueueLane.device, QueueLane.gpus)
    query = (
        select(*columns, head.priority, head.id)
        .select_from(QueueLane)
        .join(head, head.id == best.scalar_subquery())
        .where(condition)
    )
    return [WaitingLane(*row) for row in connection.execute(query, execution_options=TOTALS)]


def count_waiting(connection: Connection, lanes: Sequence[WaitingLane], timestamp: datetime, most: int) -> int:
    """Return how many runs of these lanes wait only for a worker, at most ``most``; no more of them are read."""
    total = 0
    for lane in lanes:
        if total >= most:
            break
        # In the order of the index: without it, PostgreSQL may read the runs of other lanes until it has found enough.
        ready = select(Run.id).where(Run.lane_id == lane.id, is_ready(timestamp))
        waiting = ready.order_by(Run.priority.desc(), Run.id).limit(most - total).subquery()
        total += connection.execute(select(func.count()).select_from(waiting), execution_options=TOTALS).scalar_one()
    return min(total, most)
