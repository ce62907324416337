"""The project that the pages are limited to, and whether the pages for admins are offered.

With one project and no people, as on a laptop, nothing of this is shown.
"""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from client import ApiError, BackendUnreachable
from core.protocol.people import Project
from dashboard import session
from dashboard.server import login

_SECONDS = 20
"""For so long a reply about projects and rights is used again."""
_KEEP, _KNOWN, _ADMIN = "project.kept", "project.known", "project.admin"


@st.cache_data(ttl=_SECONDS, show_spinner=False)
def _projects(url: str, token: str | None) -> Sequence[Project]:
    try:
        return session.lab_client().projects().items
    except ApiError:  # an older backend has no projects
        return []


@st.cache_data(ttl=_SECONDS, show_spinner=False)
def _administers(url: str, token: str | None) -> bool:
    try:
        session.lab_client().people()
    except ApiError:
        return False
    return True


def projects() -> Sequence[Project]:
    """Return the projects that this person, or the dashboard, sees; during an outage those that were read before it."""
    known: Sequence[Project] = st.session_state.get(_KNOWN, [])
    if session.in_outage():
        return known
    try:
        known = st.session_state[_KNOWN] = _projects(session.lab_client().url, login.token())
    except BackendUnreachable:
        session.note_outage()
    return known


def targets(project: str) -> Sequence[str]:
    """Return the projects to which the roles allow to move an experiment of this project; none without a right there.

    Args:
        project: The experiment's project.
    """
    allowed = [item.name for item in projects() if item.role != "reader" and (item.archived_at is None)]
    own = next((item for item in projects() if item.name == project), None)
    if own is None or own.role == "reader":
        return []
    return [name for name in allowed if name != project]


def is_shared() -> bool:
    """Return whether the lab has several projects, or people with roles."""
    return len(projects()) > 1 or any(item.members for item in projects())


def administers() -> bool:
    """Return whether the token is an admin's; during an outage as it was before it."""
    known: bool = st.session_state.get(_ADMIN, False)
    if session.in_outage():
        return known
    try:
        known = st.session_state[_ADMIN] = _administers(session.lab_client().url, login.token())
    except BackendUnreachable:
        session.note_outage()
    return known


def forget() -> None:
    """Request projects and rights again, after a change."""
    _projects.clear()
    _administers.clear()


def draw_chooser() -> None:
    """Draw the chooser of the project in the sidebar, if there are several projects."""
    names = [item.name for item in projects()]
    if len(names) < 2:
        session.choose_project(None)
        return
    chosen = session.chosen_project()
    options = [None, *names]
    with st.sidebar:
        choice = st.selectbox(
            "Project",
            options,
            index=options.index(chosen) if chosen in options else 0,
            format_func=lambda name: "All projects" if name is None else name,
            help="All pages show this project only, and new experiments are submitted to it.",
            key=_KEEP,
        )
    session.choose_project(choice)
