"""Sign-in by password and by invitation, and changes of passwords.

Every kind of refusal gives the same answer after the same work, so that nobody learns which names exist; the reason is
in the audit log. The hash is computed outside of transactions, and the row is checked again in the transaction that
uses the result.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from fastapi.concurrency import run_in_threadpool
from pydantic import SecretStr
from sqlalchemy import delete, select
from sqlalchemy.orm import Session as DbSession

from backend import audit
from backend.access.sign_in_limits import SignInLimits
from backend.db import Database, models, now
from backend.errors import ApiError, invalid
from backend.people import persons
from backend.people.principal import Principal
from backend.settings import Settings
from backend.sign_in import sessions
from backend.sign_in.passwords import Passwords, check_rules
from backend.tokens import digest
from core.protocol.base import ProblemField
from core.protocol.sessions import (
    CreatedSession,
    EndedSessions,
    Invitation,
    InvitationSignIn,
    PasswordChange,
    SignIn,
)

R = TypeVar("R")


@dataclass(frozen=True)
class SignInService:
    """What sign-in needs.

    Attributes:
        database: The database.
        settings: The backend's settings.
        passwords: Computes hashes.
        limits: Counts failures.
    """

    database: Database
    settings: Settings
    passwords: Passwords
    limits: SignInLimits

    async def by_password(self, request: SignIn, address: str) -> CreatedSession:
        """Begin a session of a person whose password is right.

        Raises:
            ApiError: 401 otherwise; 429 after too many failures.
        """
        row, device = await self._read(lambda session: _by_name(session, request.person, request.earlier_session))
        async with self.limits.attempt(request.person, address, device):
            stored = row.password_hash if row is not None else None
            right = await self.passwords.verify(stored, request.password)
            reason = (
                "no such person"
                if row is None
                else "no password"
                if stored is None
                else "wrong password"
                if not right
                else "disabled"
                if row.disabled_at
                else ""
            )
            if row is not None:
                audit.about("person", row.name)
            if reason or row is None or stored is None:
                raise _refused(reason)
            new = await self.passwords.hash(request.password) if self.passwords.needs_rehash(stored) else None

            def begin(session: DbSession) -> CreatedSession:
                person = session.get_one(models.Person, row.id, with_for_update=True)
                if person.password_hash != stored or person.disabled_at:
                    raise _refused("changed meanwhile")
                person.password_hash = new or stored
                return self._begun(session, person, "password", request.client, address)

            return await self._write(begin)

    async def by_invitation(self, request: InvitationSignIn, address: str) -> CreatedSession:
        """Set the password of an invited person, and begin a session. The invitation and earlier sessions end.

        Raises:
            ApiError: 401 if the code is unknown, was used or has ended; 422 if the password breaks a rule; 429 after
                too many failures.
        """
        sha256 = digest(request.code.get_secret_value())
        row = await self._read(lambda session: _invited(session, sha256))
        if row is None:
            await self.limits.count_failure(address)
            raise _refused("no such invitation", "this invitation is unknown, was used, or has ended")
        audit.about("person", row.name)
        check_rules(request.password, name=row.name, mail=row.mail, path="password")
        hashed = await self.passwords.hash(request.password)

        def begin(session: DbSession) -> CreatedSession:
            person = _invited(session, sha256, lock=True)
            if person is None:
                raise _refused("used meanwhile", "this invitation is unknown, was used, or has ended")
            _set_hash(session, person, hashed)
            sessions.end_all(session, person.id)
            return self._begun(session, person, "invitation", request.client, address)

        return await self._write(begin)

    async def change(self, request: PasswordChange, principal: Principal, address: str) -> EndedSessions:
        """Change the sender's own password. All other sessions of the person end.

        Raises:
            ApiError: 403 if the current password is wrong; 409 for a service's token; 422 if the new one breaks a rule;
                429 after too many failures.
        """
        own = sessions.person_of(principal)
        audit.about("person", own.name)
        # Whoever has a session of the person is on a device of that person: nobody else can use up its attempts.
        async with self.limits.attempt(own.name, address, principal.token_id):
            row = await self._read(lambda session: session.get_one(models.Person, own.id))
            if not await self.passwords.verify(row.password_hash, request.current):
                audit.note(reason="wrong password")
                raise ApiError(403, "the current password is wrong")
        if request.new.get_secret_value() == request.current.get_secret_value():
            raise _broken_rule("new", "is the current password")
        check_rules(request.new, name=row.name, mail=row.mail, path="new")
        hashed = await self.passwords.hash(request.new)

        def store(session: DbSession) -> EndedSessions:
            person = session.get_one(models.Person, own.id, with_for_update=True)
            if person.password_hash != row.password_hash:
                raise ApiError(409, "the password was changed meanwhile; sign in again")
            _set_hash(session, person, hashed)
            return EndedSessions(ended=sessions.end_all(session, own.id, but=principal.token_id))

        return await self._write(store)

    async def set_password(self, name: str, password: SecretStr) -> EndedSessions:
        """Set the password of a person, whose sessions end.

        Raises:
            ApiError: 404 if there is none of this name; 422 if the password breaks a rule.
        """
        row = await self._read(lambda session: persons.find(session, name))
        check_rules(password, name=row.name, mail=row.mail, path="password")
        hashed = await self.passwords.hash(password)

        def store(session: DbSession) -> EndedSessions:
            person = persons.find(session, name)
            _set_hash(session, person, hashed)
            audit.about("person", name)
            return EndedSessions(ended=sessions.end_all(session, person.id))

        return await self._write(store)

    def _begun(
        self, session: DbSession, person: models.Person, method: Any, client: str, address: str
    ) -> CreatedSession:
        created = sessions.begin(session, person, method, client, address, self.settings)
        change = audit.current()
        if change is not None:
            change.token_id, change.token, change.person = created.id, f"session {created.id}", person.name
        audit.about("session", created.id, method=method)
        return created

    async def _read(self, query: Callable[[DbSession], R]) -> R:
        def read() -> R:
            with self.database.read() as session:
                return query(session)

        return await run_in_threadpool(read)

    async def _write(self, work: Callable[[DbSession], R]) -> R:
        def write() -> R:
            with self.database.write() as session:
                return work(session)

        return await run_in_threadpool(write)


def remove_password(session: DbSession, name: str) -> EndedSessions:
    """Remove the password and the invitation of a person, whose sessions end. Nothing else changes without one.

    Raises:
        ApiError: 404 if there is none of this name.
    """
    person = persons.find(session, name)
    _set_hash(session, person, None)
    audit.about("person", name)
    return EndedSessions(ended=sessions.end_all(session, person.id))


def invite(session: DbSession, name: str, hours: float) -> Invitation:
    """Make a code with which a person sets a password, once. An earlier code of the person ends.

    Raises:
        ApiError: 404 if there is none of this name; 422 for a disabled person.
    """
    person = persons.find(session, name)
    if person.disabled_at:
        raise _broken_rule("person", f"{name} is disabled")
    code, time_now = secrets.token_urlsafe(24), now(session)
    ends_at = time_now + timedelta(hours=hours)
    session.execute(delete(models.Invitation).where(models.Invitation.person_id == person.id))
    session.add(models.Invitation(sha256=digest(code), person_id=person.id, created_at=time_now, ends_at=ends_at))
    audit.about("person", name, ends_at=f"{ends_at:%Y-%m-%dT%H:%M:%SZ}")
    return Invitation(person=name, code=code, ends_at=ends_at)


def end_access(session: DbSession, name: str) -> EndedSessions:
    """End the sessions and the invitation of a person for good, so that they do not return when the person does.

    Raises:
        ApiError: 404 if there is none of this name.
    """
    person = persons.find(session, name)
    session.execute(delete(models.Invitation).where(models.Invitation.person_id == person.id))
    return EndedSessions(ended=sessions.end_all(session, person.id))


def forget_identities(session: DbSession, name: str) -> EndedSessions:
    """Forget the accounts at identity providers with which a person signs in; the person's sessions end.

    Raises:
        ApiError: 404 if there is none of this name.
    """
    person = persons.find(session, name)
    session.execute(delete(models.PersonIdentity).where(models.PersonIdentity.person_id == person.id))
    audit.about("person", name)
    return EndedSessions(ended=sessions.end_all(session, person.id))


def _by_name(session: DbSession, name: str, earlier: SecretStr | None) -> tuple[models.Person | None, str]:
    """Return the person of a name, and the id of an earlier session of that person; empty without one."""
    person = session.scalars(select(models.Person).where(models.Person.name == name)).one_or_none()
    token = models.Token
    device = select(token.id).where(
        token.sha256 == digest(earlier.get_secret_value() if earlier else ""),
        token.session.is_not(None),
        token.person_id == (person.id if person else ""),
    )
    return person, session.scalar(device) or ""


def _invited(session: DbSession, sha256: str, *, lock: bool = False) -> models.Person | None:
    """Return the person of an invitation that has not ended; None without one, and for a disabled person."""
    invitation, person = models.Invitation, models.Person
    rows = (
        select(person)
        .join(invitation, invitation.person_id == person.id)
        .where(invitation.sha256 == sha256, invitation.ends_at > now(session), person.disabled_at.is_(None))
    )
    return session.scalars(rows.with_for_update() if lock else rows).one_or_none()


def _set_hash(session: DbSession, person: models.Person, hashed: str | None) -> None:
    person.password_hash = hashed
    person.password_changed_at = now(session) if hashed else None
    session.execute(delete(models.Invitation).where(models.Invitation.person_id == person.id))


def _refused(reason: str, text: str = "the name or the password is wrong") -> ApiError:
    audit.note(reason=reason)
    return ApiError(401, text, headers={"WWW-Authenticate": "Bearer"})


def _broken_rule(path: str, message: str) -> ApiError:
    return invalid(f"{path}: {message}", ProblemField(path=path, message=message))
