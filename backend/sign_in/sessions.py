"""Sessions: tokens that people get by signing in, and that end by themselves.

A session has the scope admin, so that it permits what the roles of its person permit. It ends if it is not used for
some time, at the latest some time after its beginning, when its person signs out, and when the password changes.
"""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, select, update
from sqlalchemy.orm import Session as DbSession

from backend.db import models, new_id, now
from backend.errors import ApiError, not_found
from backend.people.principal import PersonRights, Principal
from backend.settings import Settings
from backend.tokens import ADMIN_SCOPES, PREFIX, digest, is_valid
from core.protocol.sessions import CURRENT, CreatedSession, Session, SessionList, SignInMethod

MAX_SESSIONS = 50
"""Sessions of a person at a time; a further one ends the oldest."""


def person_of(principal: Principal) -> PersonRights:
    """Return the person who sends a request.

    Raises:
        ApiError: 409 for the token of a service.
    """
    if principal.person is None:
        raise ApiError(409, "this token belongs to a service; sign in as a person, or use a token of a person")
    return principal.person


def begin(
    session: DbSession, person: models.Person, method: SignInMethod, client: str, address: str, settings: Settings
) -> CreatedSession:
    """Begin a session. Only the returned object contains its token.

    Args:
        session: Session of a writing transaction.
        person: The person who has signed in.
        method: How the person signed in.
        client: What the session is used with.
        address: Network address of the sender.
        settings: The limits of sessions.
    """
    time_now, text, key = now(session), PREFIX + secrets.token_urlsafe(32), new_id()
    ends_at = time_now + timedelta(hours=settings.session_hours)
    row = models.Token(
        id=key,
        name=f"session {key}",
        sha256=digest(text),
        scopes=ADMIN_SCOPES,
        created_at=time_now,
        created_by=person.name,
        expires_at=ends_at,
        person_id=person.id,
        session=method,
        idle_ends_at=min(time_now + timedelta(hours=settings.session_idle_hours), ends_at),
        client=client,
        address=address[:64],
    )
    older = select(models.Token.id).where(_of(person.id)).order_by(models.Token.id.desc()).offset(MAX_SESSIONS - 1)
    _end(session, models.Token.id.in_(list(session.scalars(older))), time_now)
    session.add(row)
    session.flush()
    return CreatedSession(**_shape(row, person.name, row.id).model_dump(), token=text)


def sessions(session: DbSession, principal: Principal) -> SessionList:
    """Return the sender's sessions that have not ended, newest first.

    Raises:
        ApiError: 409 for the token of a service.
    """
    person = person_of(principal)
    rows = session.scalars(select(models.Token).where(_of(person.id)).order_by(models.Token.id.desc()))
    return SessionList(items=[_shape(row, person.name, principal.token_id) for row in rows])


def find(session: DbSession, key: str, principal: Principal) -> Session:
    """Return one of the sender's sessions.

    Raises:
        ApiError: 404 if there is none of this id that has not ended, 409 for the token of a service.
    """
    person = person_of(principal)
    return _shape(_row(session, key, principal), person.name, principal.token_id)


def end(session: DbSession, key: str, principal: Principal) -> Session:
    """End one of the sender's sessions: it is refused from the next request on.

    Raises:
        ApiError: 404 if there is none of this id that has not ended, 409 for the token of a service.
    """
    person = person_of(principal)
    row = _row(session, key, principal)
    row.revoked_at = now(session)
    return _shape(row, person.name, principal.token_id)


def end_all(session: DbSession, person_id: str, *, but: str = "") -> int:
    """End the sessions of a person, and return how many.

    Args:
        session: Session of a writing transaction.
        person_id: The person.
        but: Id of a session that goes on.
    """
    return _end(session, and_(_of(person_id), models.Token.id != but), now(session))


def _of(person_id: str) -> ColumnElement[bool]:
    return and_(models.Token.person_id == person_id, models.Token.session.is_not(None), is_valid())


def _end(session: DbSession, condition: ColumnElement[bool], time_now: datetime) -> int:
    ids = list(session.scalars(select(models.Token.id).where(condition)))
    session.execute(update(models.Token).where(models.Token.id.in_(ids)).values(revoked_at=time_now))
    return len(ids)


def _row(session: DbSession, key: str, principal: Principal) -> models.Token:
    token_id = principal.token_id if key == CURRENT else key
    own = _of(person_of(principal).id)
    row = session.scalars(select(models.Token).where(models.Token.id == token_id, own)).one_or_none()
    if row is None:
        raise not_found("session", key)
    return row


def _shape(row: models.Token, person: str, current: str) -> Session:
    return Session.model_validate(
        {
            "id": row.id,
            "person": person,
            "method": row.session,
            "client": row.client,
            "address": row.address,
            "created_at": row.created_at,
            "last_used_at": row.last_used_at,
            "idle_ends_at": min(row.idle_ends_at, row.expires_at) if row.idle_ends_at and row.expires_at else None,
            "ends_at": row.expires_at,
            "current": row.id == current,
        }
    )
