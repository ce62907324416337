"""Bearer tokens. The database stores only their hashes; the first tokens are created at the start, in private files."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import secrets
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import ColumnElement, Connection, and_, bindparam, or_, select
from sqlalchemy.orm import Session

from backend import audit
from backend.db import Database, db_now, new_id, now
from backend.db.models import EarlierTokenText, Person, Token
from backend.errors import ApiError, conflict, not_found
from backend.people import persons
from backend.people.principal import Principal as Principal  # other modules import it from here
from backend.people.rights import load
from backend.settings import Settings
from common.atomic_write import atomic_path
from common.token_files import TokenFileError, read_token, token_weakness
from core.protocol.access import CreatedToken, TokenInfo, TokenRequest
from core.protocol.public import ProblemField

_log = structlog.get_logger(__name__)

# The scope submit includes read, and admin includes both. The scope worker includes no other, and no other includes it.
_IMPLIED: dict[str, frozenset[str]] = {
    "read": frozenset({"read"}),
    "submit": frozenset({"read", "submit"}),
    "worker": frozenset({"worker"}),
    "admin": frozenset({"read", "submit", "admin"}),
}
ADMIN_SCOPES = ["admin"]
WORKER_SCOPES = ["worker"]
DASHBOARD_SCOPES = ["submit"]
PREFIX = "dkd_"
"""Prefix of every new token, so that a secret scanner finds one that was committed by mistake."""


def digest(token: str) -> str:
    """Return the hash under which the database stores a token."""
    # A token has 256 random bits, so a fast hash is as safe as a slow one.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def identify(database: Database, token: str) -> Principal | None:
    """Return the principal of a token; None if the token is unknown, revoked or expired, or its person is disabled."""
    sha256 = digest(token)
    with database.engine.connect() as connection:
        row: Any = connection.execute(_BY_HASH, {"sha256": sha256}).one_or_none()
        replaced = row is None
        if row is None:
            row = connection.execute(_BY_EARLIER_HASH, {"sha256": sha256}).one_or_none()
        person = load(connection, row.person_id) if row is not None and row.person_id else None
    if row is None or (row.person_id and person is None):
        return None
    token_id, name, scopes, stored_sha256, _, method, *ends = row
    # The row is found by the hash, which a caller cannot choose. The comparison takes constant time.
    if not hmac.compare_digest(stored_sha256, sha256):
        return None
    allowed = frozenset[str]().union(*(_IMPLIED.get(scope, frozenset()) for scope in scopes))
    manages = "admin" in allowed
    if person is not None and not person.admin:
        allowed -= {"admin"}
    end = min((end for end in ends if end), default=None)
    return Principal(
        token_id, name, allowed, person, manages, ends_at=end, replaced=replaced, in_session=method is not None
    )


def add_token(session: Session, token: str, name: str, scopes: list[str]) -> None:
    """Store a token. Nothing changes if it is stored already."""
    if session.scalars(select(Token).where(Token.sha256 == digest(token))).one_or_none() is None:
        session.add(Token(id=new_id(), name=name, sha256=digest(token), scopes=scopes, created_at=now(session)))


def create(session: Session, request: TokenRequest, principal: Principal) -> CreatedToken:
    """Create a token. Only the returned object contains its text.

    Raises:
        ApiError: 409 if a token of that name is in use; experiments record the name as their submitter. 422 for a
            person who does not exist, is disabled, or would get the scope worker.
    """
    if session.scalars(select(Token.id).where(Token.name == request.name, is_valid())).first():
        raise conflict(
            f"a token named {request.name!r} is in use; revoke it, or choose another name",
            ProblemField(path="name", message="is taken"),
        )
    person_id = None if request.person is None else persons.token_owner(session, request.person, request.scopes)
    text = PREFIX + secrets.token_urlsafe(32)
    time_now = now(session)
    days = request.expires_in_days
    token = Token(
        id=new_id(),
        name=request.name,
        sha256=digest(text),
        scopes=list(dict.fromkeys(request.scopes)),
        created_at=time_now,
        created_by=principal.submitter,
        expires_at=time_now + timedelta(days=days) if days else None,
        person_id=person_id,
    )
    session.add(token)
    session.flush()
    audit.about("token", token.id, name=token.name, scopes=token.scopes, person=request.person)
    return CreatedToken(**to_token_info(session, token, time_now).model_dump(), token=text)


def list_tokens(session: Session) -> list[TokenInfo]:
    """Return every token that is no session, newest first, without their texts and hashes."""
    time_now = now(session)
    rows = select(Token).where(Token.session.is_(None)).order_by(Token.id.desc())
    return [to_token_info(session, token, time_now) for token in session.scalars(rows)]


def revoke(session: Session, token_id: str, principal: Principal) -> TokenInfo:
    """Revoke a token: it is refused from the next request on. Repeating the call changes nothing.

    Raises:
        ApiError: 404 if there is no such token; 409 for the token of the request itself, so that an admin cannot revoke
            the last admin token.
    """
    token = session.get(Token, token_id)
    if token is None:
        raise not_found("token", token_id)
    if token.id == principal.token_id:
        raise conflict("this request was sent with this token; revoke it with another one")
    time_now = now(session)
    token.revoked_at = token.revoked_at or time_now
    audit.about("token", token.id, name=token.name)
    return to_token_info(session, token, time_now)


def refuse_other(connection: Connection, owner: str | None, principal: Principal) -> None:
    """Refuse a request about a worker that registered with another token, if that token is still valid.

    Args:
        connection: Connection of the caller's transaction.
        owner: Id of the token that the worker registered with.
        principal: Sender of the request.

    Raises:
        ApiError: 403 in this case.
    """
    if owner in (None, principal.token_id):
        return
    if connection.scalars(select(Token.id).where(Token.id == owner, is_valid())).first():
        raise ApiError(403, "this worker registered with another token, which is still in use")


def is_valid() -> ColumnElement[bool]:
    """Return the condition that a token has not ended."""
    return and_(
        Token.revoked_at.is_(None),
        or_(Token.expires_at.is_(None), Token.expires_at > db_now()),
        or_(Token.idle_ends_at.is_(None), Token.idle_ends_at > db_now()),
    )


def to_token_info(session: Session, token: Token, time_now: datetime) -> TokenInfo:
    """Return what the API shows of a token."""
    expired = token.expires_at is not None and token.expires_at <= time_now
    overlap_end = token.earlier_text_ends_at
    return TokenInfo.model_validate(
        {
            "id": token.id,
            "name": token.name,
            "scopes": token.scopes,
            "state": "revoked" if token.revoked_at else "expired" if expired else "active",
            "created_at": token.created_at,
            "created_by": token.created_by,
            "expires_at": token.expires_at,
            "revoked_at": token.revoked_at,
            "rotated_at": token.rotated_at,
            "earlier_text_ends_at": overlap_end if overlap_end and overlap_end > time_now else None,
            "last_used_at": token.last_used_at,
            "person": session.get_one(Person, token.person_id).name if token.person_id else None,
        }
    )


_BY_HASH = select(
    Token.id, Token.name, Token.scopes, Token.sha256, Token.person_id, Token.session, Token.expires_at
).where(Token.sha256 == bindparam("sha256"), is_valid())
_BY_EARLIER_HASH = (
    select(
        Token.id,
        Token.name,
        Token.scopes,
        EarlierTokenText.sha256,
        Token.person_id,
        Token.session,
        Token.expires_at,
        EarlierTokenText.ends_at,
    )
    .join(Token, Token.id == EarlierTokenText.token_id)
    .where(EarlierTokenText.sha256 == bindparam("sha256"), EarlierTokenText.ends_at > db_now(), is_valid())
)


def bootstrap(database: Database, settings: Settings) -> None:
    """Store the tokens of the admin, of workers and, if the settings name a file, of the dashboard.

    A token is created if its file does not exist. An existing file is used, so that a second start, another replica and
    a new database keep the token. A token that has been revoked is replaced, because otherwise no program on this
    machine could authenticate. A token whose file contains an earlier text after a rotation is not stored again.

    Raises:
        TokenFileError: A file cannot be read, or its token is easily guessed.
    """
    files = [("admin", settings.admin_token_file, ADMIN_SCOPES), ("worker", settings.worker_token_file, WORKER_SCOPES)]
    if settings.dashboard_token_file:
        files.append(("dashboard", settings.dashboard_token_file, DASHBOARD_SCOPES))
    for name, file, scopes in files:
        token = _token_in(file)
        with database.write() as session:
            earlier = session.get(EarlierTokenText, digest(token))
            same = Token.id == earlier.token_id if earlier else Token.sha256 == digest(token)
            if session.scalars(select(Token.id).where(same, ~is_valid())).first():
                token = _token_in(file, refused=token)
            elif earlier:  # to store it again would undo the rotation
                _log.warning(
                    "the file contains an earlier text of a token that was rotated: write the new text into it",
                    file=str(file),
                    ends_at=f"{earlier.ends_at:%Y-%m-%d %H:%M} UTC",
                )
                continue
            add_token(session, token, name, scopes)


def _token_in(file: Path, refused: str = "") -> str:
    """Return the token in the file; create one if the file does not exist or contains the refused token.

    Raises:
        TokenFileError: The file cannot be read, or its token is easily guessed.
    """
    with contextlib.suppress(FileNotFoundError):
        token_file = read_token(file)
        if token_file.warning:
            _log.warning(token_file.warning)
        if token_file.token and token_file.token != refused:
            if weakness := token_weakness(token_file.token):
                raise TokenFileError(
                    f"the token in {file} is not used: {weakness}; remove the file to have a new token created"
                )
            return token_file.token
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # A file that exists here is empty, or its token is refused. If two processes start at once, both read the token
    # that the first has written.
    with (
        contextlib.suppress(FileExistsError),
        atomic_path(file, private=True, replace=file.exists()) as partial,
    ):
        partial.write_text(secrets.token_urlsafe(32) + "\n", encoding="utf-8")
    return read_token(file).token
