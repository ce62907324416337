"""Sign-in with an ID token of an OpenID Connect provider.

The provider is asked only for its keys: whoever has obtained an ID token for the configured client, such as the
dashboard after its sign-in page, exchanges it once for a session. A person is known by issuer and subject; the first
sign-in links these to the person who has the verified mail address of the account.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import unicodedata
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any

import jwt
from jwt.exceptions import PyJWTError
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session as DbSession

from backend import audit
from backend.access.sign_in_limits import SignInLimits
from backend.db import Database, models, new_id, now
from backend.db.upsert import insert_if_absent
from backend.errors import ApiError
from backend.settings import Settings
from backend.sign_in import sessions
from backend.sign_in.provider import ALGORITHMS, ProviderKeys
from backend.sign_in.threads import FewThreads
from core.protocol.people import PERSON_NAME
from core.protocol.sessions import CreatedSession, OidcSignIn

MAX_AGE = timedelta(hours=1)
"""Time after its issue in which an ID token can be exchanged. So long its use is remembered, and a little longer."""
_LEEWAY = timedelta(seconds=60)
_CLAIMS = ["iss", "sub", "aud", "exp", "iat"]
_MAX_SUBJECT = 255
_AT_ONCE = 4
"""Threads that sign-ins may hold: a provider that does not answer must not hold those of all routes."""
_REFUSED = "this ID token is not accepted; sign in at the identity provider again"


@dataclass(frozen=True)
class Claims:
    """What an ID token says after its verification.

    Attributes:
        subject: The account at the issuer.
        mail: The mail address of the account, if the issuer has verified it; else empty.
        name: The name that the account prefers.
        key: Hash that identifies the token.
    """

    subject: str
    mail: str
    name: str
    key: str


class IdTokens:
    """Verifies ID tokens of the configured issuer.

    Args:
        settings: The backend's settings, with an issuer.
    """

    def __init__(self, settings: Settings) -> None:
        self._issuer = settings.oidc_issuer or ""
        self._client_id = settings.oidc_client_id or ""
        self._keys = ProviderKeys(self._issuer)

    def verify(self, text: str, nonce: str | None) -> Claims:
        """Return the claims of a valid token.

        Args:
            text: The token.
            nonce: The nonce that the token must have; None if the client used none.

        Raises:
            ApiError: 401 for any other token; 503 if the provider's keys cannot be read.
        """
        try:
            header = jwt.get_unverified_header(text)
            key_id = header.get("kid")
            if header.get("alg") not in ALGORITHMS or not isinstance(key_id, str | None):
                raise refused("algorithm")
            key = self._keys.find(key_id)
            if key is None or key.algorithm_name != header["alg"]:
                raise refused("unknown key")
            claims: dict[str, Any] = jwt.decode(
                text,
                key,
                algorithms=[key.algorithm_name],
                audience=self._client_id,
                issuer=self._issuer,
                leeway=_LEEWAY,
                options={"require": _CLAIMS},
            )
        except (PyJWTError, ValueError, OverflowError, RecursionError) as error:
            raise refused(type(error).__name__) from None
        self._check(claims, nonce)
        mail = claims.get("email")
        verified = claims.get("email_verified") is True and isinstance(mail, str) and len(mail) <= 200
        name = claims.get("preferred_username")
        # A token without jti is known by its text without the signature, which for ES256 is not unique.
        identity = claims.get("jti")
        unique = f"jti {identity}" if isinstance(identity, str) and identity else text.rpartition(".")[0]
        return Claims(
            subject=claims["sub"],
            mail=mail if verified and isinstance(mail, str) else "",
            name=name if isinstance(name, str) else "",
            key=hashlib.sha256(f"{self._issuer}\n{unique}".encode("utf-8", "surrogatepass")).hexdigest(),
        )

    def _check(self, claims: dict[str, Any], nonce: str | None) -> None:
        subject, audience = claims["sub"], claims["aud"]
        if not isinstance(subject, str) or not 0 < len(subject) <= _MAX_SUBJECT or "\0" in subject:
            raise refused("subject")
        if claims.get("azp", self._client_id) != self._client_id or (
            isinstance(audience, list) and len(audience) > 1 and "azp" not in claims
        ):
            raise refused("authorized party")
        if datetime.now(UTC).timestamp() - float(claims["iat"]) > (MAX_AGE + _LEEWAY).total_seconds():
            raise refused("issued too long ago")
        own = claims.get("nonce")
        if nonce is not None and not (
            isinstance(own, str)
            and hmac.compare_digest(own.encode("utf-8", "replace"), nonce.encode("utf-8", "replace"))
        ):
            raise refused("nonce")


@dataclass(frozen=True)
class OidcService:
    """What sign-in with an ID token needs.

    Attributes:
        database: The database.
        settings: The backend's settings.
        limits: Counts failures.
        tokens: Verifies ID tokens; None without a provider.
    """

    database: Database
    settings: Settings
    limits: SignInLimits
    tokens: IdTokens | None
    _threads: FewThreads = field(default_factory=lambda: FewThreads(_AT_ONCE))

    async def sign_in(self, request: OidcSignIn, address: str) -> CreatedSession:
        """Begin a session of the person whom an ID token names.

        Raises:
            ApiError: 401 for a token that is not valid or was used; 403 if it names no person; 404 without a provider;
                429 after too many failures; 503 if the provider's keys cannot be read.
        """
        tokens = self.tokens
        if tokens is None:
            raise ApiError(404, "this backend has no identity provider; DKD_OIDC_ISSUER names one")

        def work() -> CreatedSession:
            nonce = None if request.nonce is None else request.nonce.get_secret_value()
            claims = tokens.verify(request.id_token.get_secret_value(), nonce)
            with self.database.write() as session:
                _use(session, claims)
                person = self._person(session, claims)
                audit.about("person", person.name)
                if person.disabled_at:
                    raise _unknown("disabled")
                created = sessions.begin(session, person, "oidc", request.client, address, self.settings)
                change = audit.current()
                if change is not None:
                    change.token_id, change.token, change.person = created.id, f"session {created.id}", person.name
                audit.about("session", created.id, method="oidc")
                return created

        try:
            return await self._threads.run(work)
        except ApiError as error:
            if error.status == 401:
                await self.limits.count_failure(address)
            raise

    def _person(self, session: DbSession, claims: Claims) -> models.Person:
        """Return the person of an account; a new account is linked to a person first."""
        issuer = self.settings.oidc_issuer or ""
        identity = models.PersonIdentity
        # Locked with its account, so that an admin who forgets the account at the same time ends this session too.
        linked_person = (
            select(models.Person)
            .join(identity, identity.person_id == models.Person.id)
            .where(identity.issuer == issuer, identity.subject == claims.subject)
        )
        known = session.scalars(linked_person.with_for_update()).one_or_none()
        if known is not None:
            return known
        if not claims.mail:
            raise _unknown("mail not verified")
        same_mail = select(models.Person).where(func.lower(models.Person.mail) == claims.mail.lower())
        found = list(session.scalars(same_mail.limit(2).with_for_update()))
        if len(found) > 1:
            raise _unknown("several people have this mail address")
        person = found[0] if found else self._created(session, claims)
        linked = select(identity.subject).where(identity.person_id == person.id, identity.issuer == issuer)
        # A provider may give the mail address of somebody who has left to another account.
        if session.scalars(linked).first() is not None:
            raise _unknown("the person has another account")
        session.add(identity(issuer=issuer, subject=claims.subject, person_id=person.id, created_at=now(session)))
        session.flush()
        return person

    def _created(self, session: DbSession, claims: Claims) -> models.Person:
        mail = claims.mail.lower()
        if not any(fnmatchcase(mail, pattern.lower()) for pattern in self.settings.oidc_create):
            raise _unknown("no person has this mail address")
        person = models.Person(id=new_id(), name=_free_name(session, claims), mail=claims.mail, created_at=now(session))
        session.add(person)
        session.flush()
        audit.note(created=person.name)
        return person


def refused(reason: str) -> ApiError:
    """Return the answer to a token that is not accepted; the audit log contains the reason."""
    audit.note(reason=reason)
    return ApiError(401, _REFUSED, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})


def _unknown(reason: str) -> ApiError:
    audit.note(reason=reason)
    return ApiError(403, "this account belongs to no person of this lab; an admin adds a person with its mail address")


def _use(session: DbSession, claims: Claims) -> None:
    """Remember that a token was used.

    Raises:
        ApiError: 401 if it was used before.
    """
    time_now, used = now(session), models.UsedIdToken
    session.execute(delete(used).where(used.ends_at < time_now))
    row = {"sha256": claims.key, "ends_at": time_now + MAX_AGE + 3 * _LEEWAY}
    if not insert_if_absent(session.connection(), used, row, unique=["sha256"]):
        raise refused("used before")


def _free_name(session: DbSession, claims: Claims) -> str:
    """Return a name for a new person: the preferred one or that of the mail address, with a number if it is taken."""
    plain = unicodedata.normalize("NFKD", claims.name or claims.mail.partition("@")[0])
    name = re.sub(r"[^A-Za-z0-9._@+-]+", "", plain)[:50].lstrip("._@+-")
    if not re.fullmatch(PERSON_NAME, name):
        name = "person"
    # A new person must not look like a service, of which people see the name of its token.
    taken = {
        found
        for named in (models.Person.name, models.Token.name)
        for found in session.scalars(select(named).where(named.startswith(name, autoescape=True)))
    }
    number = 2
    result = name
    while result in taken:
        result, number = f"{name}-{number}", number + 1
    return result
