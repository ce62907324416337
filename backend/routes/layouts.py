"""Layouts of Compare's board: list, read, store, delete."""

from __future__ import annotations

from fastapi import APIRouter

from backend import board_layouts
from backend.api.boundary import BoundedRoute
from backend.api.dependencies import DatabaseDep, SessionDep, SubmitterDep, reads, submits
from backend.api.request_bodies import ProjectParameter
from backend.people import rights
from core.protocol.layouts import LayoutList, LayoutRequest, NamedLayout

router = APIRouter(prefix="/layouts", tags=["layouts"], route_class=BoundedRoute)


@router.post("", status_code=201, responses={409: {"description": "A layout of this name is stored, or too many are"}})
def save_layout(
    request: LayoutRequest, principal: SubmitterDep, database: DatabaseDep, project: ProjectParameter = None
) -> NamedLayout:
    """Store a layout of Compare's board by its name.

    A stored layout of that name is replaced only if the request says so.
    """
    target = rights.target(project)
    with database.write() as session:
        return board_layouts.save(session, request, principal.submitter, target)


@router.get("", dependencies=[reads])
def list_layouts(session: SessionDep) -> LayoutList:
    """List the stored layouts by name, without their contents."""
    return board_layouts.layouts(session)


# ``:path``, because a name may contain a slash.
@router.get("/{layout:path}", dependencies=[reads])
def read_layout(layout: str, session: SessionDep) -> NamedLayout:
    """Read a stored layout: its figures, in their order, and how they are drawn."""
    return board_layouts.layout(session, layout)


@router.delete("/{layout:path}", status_code=204, dependencies=[submits])
def delete_layout(layout: str, database: DatabaseDep) -> None:
    """Delete a stored layout. Links to a board contain their own layout and go on to work."""
    with database.write() as session:
        board_layouts.remove(session, layout)
