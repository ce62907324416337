"""People: create, list, change, disable."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend import audit
from backend.db import models, new_id, now
from backend.errors import conflict, invalid, not_found
from core.protocol.base import ProblemField
from core.protocol.people import Person, PersonEdit, PersonRequest, Role


def people(session: Session) -> list[Person]:
    """Return all people by name."""
    return shapes(session, session.scalars(select(models.Person).order_by(models.Person.name)).all())


def person(session: Session, name: str) -> Person:
    """Return a person.

    Raises:
        ApiError: 404 if there is none of this name.
    """
    return shapes(session, [find(session, name)])[0]


def create(session: Session, request: PersonRequest) -> Person:
    """Create a person, who has no role yet.

    Raises:
        ApiError: 409 if the name is taken.
    """
    if session.scalars(select(models.Person.id).where(models.Person.name == request.name)).first():
        raise conflict(f"there is a person named {request.name!r}", ProblemField(path="name", message="is taken"))
    row = models.Person(id=new_id(), created_at=now(session), **request.model_dump())
    session.add(row)
    session.flush()
    audit.about("person", row.name, **request.model_dump(exclude={"name"}))
    return shapes(session, [row])[0]


def change(session: Session, name: str, request: PersonEdit, sender: str | None) -> Person:
    """Change the given fields of a person.

    Args:
        session: Session of a writing transaction.
        name: The person's name.
        request: The changes.
        sender: Id of the person who sends the request; None for a service.

    Raises:
        ApiError: 404 if there is none of this name; 409 for people who would disable themselves or end their own
            rights, so that an admin remains.
    """
    row = find(session, name)
    if row.id == sender and (request.disabled or request.admin is False):
        raise conflict("nobody disables themselves or ends their own rights as an admin; another admin does it")
    if request.mail is not None:
        row.mail = request.mail or None
    if request.admin is not None:
        row.admin = request.admin
    if request.disabled is not None:
        row.disabled_at = (row.disabled_at or now(session)) if request.disabled else None
    audit.about("person", row.name, **request.model_dump(exclude_unset=True))
    session.flush()
    return shapes(session, [row])[0]


def find(session: Session, name: str) -> models.Person:
    """Return the row of a person.

    Raises:
        ApiError: 404 if there is none of this name.
    """
    row = session.scalars(select(models.Person).where(models.Person.name == name)).one_or_none()
    if row is None:
        raise not_found("person", name)
    return row


def token_owner(session: Session, name: str, scopes: Sequence[str]) -> str:
    """Return the id of the person for whom a token is created.

    Raises:
        ApiError: 422 if there is no such person, the person is disabled, or the token would be a worker's, which sees
            the runs of all projects.
    """
    row = session.scalars(select(models.Person).where(models.Person.name == name)).one_or_none()
    problem = (
        f"there is no person {name!r}; `dkd person create` makes one"
        if row is None
        else f"{name} is disabled"
        if row.disabled_at
        else "a worker trains runs of all projects, so its token belongs to no person"
        if "worker" in scopes
        else ""
    )
    if row is None or problem:
        raise invalid(problem, ProblemField(path="person", message=problem))
    return row.id


def shapes(session: Session, rows: Sequence[models.Person]) -> list[Person]:
    """Return what the API shows of people."""
    ids = [row.id for row in rows]
    roles: dict[str, dict[str, Role]] = defaultdict(dict)
    memberships = select(models.Membership).where(models.Membership.person_id.in_(ids))
    for membership in session.scalars(memberships.order_by(models.Membership.project)):
        roles[membership.person_id][membership.project] = membership.role  # type: ignore[assignment]  # one of Role
    token = models.Token
    valid = select(token.person_id, func.count()).where(
        token.person_id.in_(ids), token.revoked_at.is_(None), token.session.is_(None)
    )
    tokens: dict[str | None, int] = dict(session.execute(valid.group_by(token.person_id)).all())
    issuers: dict[str, list[str]] = defaultdict(list)
    identity = models.PersonIdentity
    for item in session.scalars(select(identity).where(identity.person_id.in_(ids)).order_by(identity.issuer)):
        issuers[item.person_id].append(item.issuer)
    return [
        Person(
            id=row.id,
            name=row.name,
            mail=row.mail,
            admin=row.admin,
            created_at=row.created_at,
            disabled_at=row.disabled_at,
            roles=roles[row.id],
            tokens=tokens.get(row.id, 0),
            has_password=row.password_hash is not None,
            issuers=issuers[row.id],
        )
        for row in rows
    ]
