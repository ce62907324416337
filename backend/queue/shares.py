"""Lists the shares of the queue, and sets their weights."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend import audit
from backend.db import now
from backend.db.models import Run, Share
from backend.errors import not_found
from backend.people.principal import Principal
from backend.queue.fair_share import Standing, in_turn, running_slots, used_seconds
from backend.queue.lanes import TOTALS
from backend.queue.usage import WINDOW
from core.protocol.shares import ShareInfo, ShareList, ShareRequest


def share_list(session: Session, principal: Principal) -> ShareList:
    """Return the owners: those with queued runs in the order of their turns, then the others by used time.

    Args:
        session: A transaction.
        principal: The sender of the request. A person who does not see every project sees the own share alone.
    """
    connection = session.connection()
    weights = {row.owner: row.weight for row in session.execute(select(Share.owner, Share.weight))}
    used, running = used_seconds(connection, now(session)), running_slots(connection)
    counts = select(Run.owner, func.count()).where(Run.state == "queued").group_by(Run.owner)
    queued: dict[str, int] = {owner: int(count) for owner, count in session.execute(counts, execution_options=TOTALS)}
    standings = {
        owner: Standing(weight, used.get(owner, 0.0), running.get(owner, 0)) for owner, weight in weights.items()
    }
    waiting = in_turn({owner: standing for owner, standing in standings.items() if queued.get(owner)})
    idle = sorted(standings.keys() - set(waiting), key=lambda owner: (-standings[owner].used, owner))
    items = [
        ShareInfo(
            owner=owner,
            weight=standings[owner].weight,
            used_seconds=standings[owner].used,
            running=standings[owner].running,
            queued=queued.get(owner, 0),
            turn=place if place <= len(waiting) else None,
        )
        for place, owner in enumerate([*waiting, *idle], start=1)
    ]
    own = [item for item in items if principal.sees_everything or item.owner == principal.submitter]
    return ShareList(items=own, window_seconds=WINDOW.total_seconds())


def set_weight(session: Session, request: ShareRequest) -> None:
    """Set an owner's weight.

    Raises:
        ApiError: 404 if nobody of this name has submitted a run.
    """
    share = session.get(Share, request.owner, with_for_update=True)
    if share is None:
        raise not_found("owner", request.owner)
    audit.about("owner", share.owner, weight=request.weight, before=share.weight)
    share.weight = request.weight
