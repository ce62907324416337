"""Sweeps with their results. ``submissions`` creates them."""

from __future__ import annotations

from fastapi import APIRouter

from backend.api.boundary import BoundedRoute
from backend.api.dependencies import SessionDep, reads
from backend.experiments import sweeps
from core.protocol.sweeps import Sweep, SweepList

router = APIRouter(prefix="/sweeps", tags=["sweeps"], dependencies=[reads], route_class=BoundedRoute)


@router.get("")
def list_sweeps(session: SessionDep) -> SweepList:
    """List the newest sweeps."""
    return sweeps.sweeps(session)


# ``:path``, because a name may contain a slash.
@router.get("/{name:path}")
def read_sweep(name: str, session: SessionDep) -> Sweep:
    """Read a sweep: the fields that vary, and the result of each of its experiments after the last epoch."""
    return sweeps.sweep(session, name)
