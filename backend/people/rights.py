"""What the sender of a request may see and change.

A token without a person belongs to a service and has its scopes over all projects. A token of a person has in each
project what both its scopes and the person's role there permit; in projects without a role, nothing exists for it. An
admin of the lab may do everything with a token of the scope admin.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from sqlalchemy import Connection, bindparam, select

from backend.db.models import Membership, Person
from backend.db.visibility import visible_projects
from backend.errors import ApiError, invalid, not_found
from backend.people.principal import PersonRights, Principal
from core.protocol.base import ProblemField
from core.protocol.people import DEFAULT_PROJECT, Role

RANKS: dict[str, int] = {"reader": 0, "submitter": 1, "admin": 2}
"""A role includes those of lower rank."""


_sender: ContextVar[Principal | None] = ContextVar("sender", default=None)
_narrowed: ContextVar[str | None] = ContextVar("narrowed", default=None)

_RIGHTS = (
    select(Person.name, Person.admin, Membership.project, Membership.role)
    .outerjoin(Membership, Membership.person_id == Person.id)
    .where(Person.id == bindparam("person"), Person.disabled_at.is_(None))
)


def load(connection: Connection, person_id: str) -> PersonRights | None:
    """Return the rights of a person; None if the person is disabled or does not exist."""
    rows = connection.execute(_RIGHTS, {"person": person_id}).all()
    if not rows:
        return None
    roles = {row.project: row.role for row in rows if row.project is not None}
    return PersonRights(person_id, rows[0].name, rows[0].admin, roles)


def enter(principal: Principal | None, narrowed: str | None = None) -> None:
    """Limit the present request to what its sender may see; None for a request without a token, which reads nothing.

    Args:
        principal: The sender.
        narrowed: Name of the only project that the request is about; None for all that the sender sees.

    Raises:
        ApiError: 404 if the sender does not see that project.
    """
    _sender.set(principal)
    _narrowed.set(narrowed)
    projects = None if principal is None or principal.sees_everything else frozenset(principal.roles)
    if narrowed is not None:
        if projects is not None and narrowed not in projects:
            raise not_found("project", narrowed)
        projects = frozenset((narrowed,))
    visible_projects.set(projects)


@contextmanager
def acting_as(principal: Principal) -> Iterator[None]:
    """Limit the block to what a principal may see now, since the rights of a request's sender may have changed."""
    narrowed = visible_projects.get()
    allowed = None if principal.sees_everything else frozenset(principal.roles)
    token = visible_projects.set(narrowed if allowed is None else allowed if narrowed is None else allowed & narrowed)
    try:
        yield
    finally:
        visible_projects.reset(token)


def sees(project: str) -> bool:
    """Return whether the sender of the present request sees a project; true outside of requests."""
    sender = _sender.get()
    return sender is None or sender.sees_everything or project in sender.roles


def view_key() -> Hashable:
    """Return what decides what the sender of the present request sees; equal for requests that see the same."""
    sender = _sender.get()
    seen = None if sender is None or sender.sees_everything else frozenset(sender.roles)
    return visible_projects.get(), seen


def may(project: str, role: Role) -> bool:
    """Return whether the sender of the present request has at least this role in a project."""
    sender = _sender.get()
    if sender is None or sender.sees_everything:
        return True
    if role == "admin" and not sender.manages:
        return False
    return project in sender.roles and RANKS[sender.roles[project]] >= RANKS[role]


def require(project: str, role: Role, kind: str = "project", key: str | None = None) -> None:
    """Check that the sender of the present request has at least this role in a project.

    Args:
        project: The project.
        role: The role.
        kind: Kind of the object that the request is about, for the message.
        key: Its name, for the message; by default that of the project.

    Raises:
        ApiError: 404 without any role there, as if the object did not exist; 403 with a lower one.
    """
    if not sees(project):
        raise not_found(kind, project if key is None else key)
    if not may(project, role):
        raise ApiError(403, f"this needs the role {role} in the project {project}, with a token that permits it")


def target(requested: str | None) -> str:
    """Return the project in which the present request creates something.

    Args:
        requested: The project that the request names; None for the project to which the request is limited, if any.

    Raises:
        ApiError: 404 or 403 if the sender may not submit there; 403 without a project to submit to; 422 if there are
            several, of which the default project is none.
    """
    requested = requested or _narrowed.get()
    if requested is not None:
        require(requested, "submitter")
        return requested
    sender = _sender.get()
    if sender is None or sender.sees_everything:
        return DEFAULT_PROJECT
    names = sorted(name for name in sender.roles if may(name, "submitter"))
    if not names:
        raise ApiError(403, "this person may submit to no project; an admin of a project gives the role submitter")
    if DEFAULT_PROJECT in names or len(names) == 1:
        return DEFAULT_PROJECT if DEFAULT_PROJECT in names else names[0]
    text = f"name the project: {', '.join(names)}"
    raise invalid(text, ProblemField(path="project", message=text))
