"""Shares of the queue: list them, and set an owner's weight."""

from __future__ import annotations

from fastapi import APIRouter

from backend.api.boundary import BoundedRoute
from backend.api.dependencies import AdminDep, DatabaseDep, ReaderDep, SessionDep
from backend.queue import shares
from core.protocol.shares import ShareList, ShareRequest

router = APIRouter(prefix="/shares", tags=["workers"], route_class=BoundedRoute)


@router.get("")
def list_shares(session: SessionDep, principal: ReaderDep) -> ShareList:
    """List who shares the queue: weights, time used in the last seven days, slots in use, and whose turn it is.

    A person who does not see every project sees the own share alone.
    """
    return shares.share_list(session, principal)


@router.post("", responses={404: {"description": "Nobody of this name has runs"}})
def set_share(request: ShareRequest, principal: AdminDep, database: DatabaseDep) -> ShareList:
    """Set the weight of an owner. It decides from the next claim on; trainings are not interrupted."""
    with database.write() as session:
        shares.set_weight(session, request)
        return shares.share_list(session, principal)
