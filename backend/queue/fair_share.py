"""Whose turn it is: the queue is shared out among those who submit, by their weights and by what they have used.

The runs of one owner are claimed by priority, then by age. Between owners, the one with the least used time per weight
is next. Used time is that of the attempts of the last ``usage.WINDOW``, times their slots, deleted runs included. Each
run that trains now counts as ``RUNNING_SECONDS`` more, so that owners who have used equally much get equally many slots
at once.

Nobody starves: an owner who gets slots while another waits comes closer to the other's used time, and passes it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Pool, func, select
from sqlalchemy.orm import Session

from backend.db.models import QueueLane, Run, Share, SlotUsage
from backend.queue import usage
from backend.queue.lanes import TOTALS, WaitingLane
from backend.queue.leased import is_leased

RUNNING_SECONDS = 3600.0
_KEPT_SECONDS = 30.0
"""Time for which a process keeps the used times. Reading them costs a pass over the attempts of the window."""


@dataclass(frozen=True)
class Standing:
    """What decides when an owner is next.

    Attributes:
        weight: The owner's part of the whole, relative to those of others; above 0.
        used: Seconds that the owner's runs have used in the window, times their slots.
        running: Slots that the owner's runs use now.
    """

    weight: float = 1.0
    used: float = 0.0
    running: int = 0

    @property
    def level(self) -> float:
        """Used seconds per weight; the owner with the lowest level is next."""
        return (self.used + RUNNING_SECONDS * self.running) / self.weight


def in_turn(standings: Mapping[str, Standing]) -> list[str]:
    """Return the owners in the order in which they may claim; of equal ones, in the order of their names."""
    return sorted(standings, key=lambda owner: (standings[owner].level, owner))


def lanes_in_turn(session: Session, lanes: Sequence[WaitingLane], timestamp: datetime) -> list[WaitingLane]:
    """Return lanes in the order in which they may claim: the owner whose turn it is first, and of each the best run.

    Args:
        session: A transaction.
        lanes: Lanes with runs that can be claimed.
        timestamp: The database's time.
    """
    owners = {lane.owner for lane in lanes}
    if len(owners) > 1:  # the queue of one owner, as on a laptop, has nothing to share out
        weights = dict.fromkeys(owners, 1.0)
        shares = select(Share.owner, Share.weight).where(Share.owner.in_(owners))
        weights |= {row.owner: row.weight for row in session.execute(shares)}
        places = {owner: place for place, owner in enumerate(in_turn(standings(session, weights, timestamp)))}
    else:
        places = dict.fromkeys(owners, 0)
    return sorted(lanes, key=lambda lane: (places[lane.owner], lane.place))


def standings(session: Session, weights: Mapping[str, float], timestamp: datetime) -> dict[str, Standing]:
    """Return the standings of owners.

    Args:
        session: A transaction.
        weights: The weights by owner.
        timestamp: The database's time.
    """
    connection = session.connection()
    used = _used_lately(connection, timestamp)
    running = running_slots(connection)
    return {owner: Standing(weight, used.get(owner, 0.0), running.get(owner, 0)) for owner, weight in weights.items()}


def running_slots(connection: Connection) -> dict[str, int]:
    """Return how many slots the runs of each owner use now."""
    query = (
        select(QueueLane.owner, func.sum(Run.gpus))
        .join(Run, Run.lane_id == QueueLane.id)
        .where(is_leased())
        .group_by(QueueLane.owner)
    )
    return {owner: int(slots) for owner, slots in connection.execute(query, execution_options=TOTALS)}


def used_seconds(connection: Connection, timestamp: datetime) -> dict[str, float]:
    """Return the seconds that each owner's attempts have used since ``usage.WINDOW`` before now, times their slots."""
    query = (
        select(SlotUsage.owner, usage.slot_seconds(timestamp))
        .where(usage.in_window(timestamp))
        .group_by(SlotUsage.owner)
    )
    sums = connection.execute(query, execution_options=TOTALS)
    return {owner: max(float(total), 0.0) for owner, total in sums}


_lock = threading.Lock()
_used: WeakKeyDictionary[Pool, tuple[float, dict[str, float]]] = WeakKeyDictionary()


def _used_lately(connection: Connection, timestamp: datetime) -> dict[str, float]:
    """Return ``used_seconds`` of at most ``_KEPT_SECONDS`` ago."""
    with _lock:
        kept = _used.get(connection.engine.pool)
        if kept is not None and time.monotonic() - kept[0] < _KEPT_SECONDS:
            return kept[1]
        if kept is not None:  # claims of other threads use the earlier sums while this one reads new ones
            _used[connection.engine.pool] = (time.monotonic(), kept[1])
    used = used_seconds(connection, timestamp)
    with _lock:
        _used[connection.engine.pool] = (time.monotonic(), used)
    return used
