"""Layouts of Compare's board that are stored by name, for everybody who sees their project."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend import audit
from backend.db import models, now
from backend.errors import conflict, not_found
from backend.people import projects, rights
from core.protocol.layouts import (
    MAX_LAYOUTS,
    LayoutList,
    LayoutRequest,
    LayoutSummary,
    NamedLayout,
    StoredLayout,
)
from core.protocol.public import ProblemField
from core.specs.text_rules import normal


def layouts(session: Session) -> LayoutList:
    """Return all layouts by name, without their contents."""
    stored = session.scalars(select(models.BoardLayout).order_by(models.BoardLayout.name))
    return LayoutList(items=[LayoutSummary(**_about(item)) for item in stored])


def layout(session: Session, name: str) -> NamedLayout:
    """Return a layout.

    Raises:
        ApiError: 404 if there is none of this name.
    """
    return _named(_find(session, name))


def save(session: Session, request: LayoutRequest, saved_by: str, project: str) -> NamedLayout:
    """Store a layout.

    Args:
        session: Session of a writing transaction.
        request: The layout with its name.
        saved_by: Name of the sender's token.
        project: Name of the project of a new layout, in which the sender may submit.

    Raises:
        ApiError: 409 if a layout of this name is stored and is not to be replaced, if there are too many layouts, or if
            the project is archived; 403 if the sender may not change the stored layout.
    """
    by_name = select(models.BoardLayout).where(models.BoardLayout.name == request.name).with_for_update()
    stored = session.scalars(by_name).one_or_none()
    if stored is not None and not rights.sees(stored.project):
        raise conflict(
            "this name is in use in the lab; choose another one", ProblemField(path="name", message="is taken")
        )
    if stored is not None and not request.replace:
        text = f"a layout named {request.name!r} is stored, by {stored.saved_by or 'an unnamed token'}"
        raise conflict(f"{text}; replace it, or choose another name", ProblemField(path="name", message="is taken"))
    if stored is not None:
        rights.require(stored.project, "submitter", "layout", stored.name)
    else:
        projects.refuse_closed(session, project)
        if session.scalars(select(func.count()).select_from(models.BoardLayout)).one() >= MAX_LAYOUTS:
            raise conflict(f"{MAX_LAYOUTS} layouts are stored, which is the most; delete one first")
        stored = models.BoardLayout(name=request.name, project=project)
        session.add(stored)
    stored.layout = request.layout.model_dump(mode="json")
    stored.saved_at, stored.saved_by = now(session), saved_by
    session.flush()
    audit.about("layout", request.name, project=stored.project, replaced=request.replace)
    return _named(stored)


def remove(session: Session, name: str) -> None:
    """Delete a layout.

    Raises:
        ApiError: 404 if there is none of this name.
    """
    stored = _find(session, name)
    audit.about("layout", stored.name, project=stored.project)
    session.delete(stored)


def _find(session: Session, name: str) -> models.BoardLayout:
    stored = session.get(models.BoardLayout, normal(name))
    if stored is None:
        raise not_found("layout", name)
    return stored


def _about(stored: models.BoardLayout) -> dict[str, Any]:
    figures = len(stored.layout.get("figures", ()))
    return {
        "name": stored.name,
        "figures": figures,
        "saved_at": stored.saved_at,
        "saved_by": stored.saved_by,
        "project": stored.project,
    }


def _named(stored: models.BoardLayout) -> NamedLayout:
    return NamedLayout(**_about(stored), layout=StoredLayout.model_validate(stored.layout))
