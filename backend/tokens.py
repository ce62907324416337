"""Bearer tokens. The database stores only their hashes; the first tokens are created at the start, in private files."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import structlog
from sqlalchemy import ColumnElement, Connection, and_, bindparam, or_, select
from sqlalchemy.orm import Session

from backend.db import Database, db_now, new_id, now
from backend.db.models import Token
from backend.errors import ApiError, conflict, not_found
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


@dataclass(frozen=True)
class Principal:
    """The sender of a request.

    Attributes:
        token_id: Id of the request's token.
        name: Name of that token; experiments record it as their submitter.
        scopes: Scopes of that token, including implied scopes.
    """

    token_id: str
    name: str
    scopes: frozenset[str]


def digest(token: str) -> str:
    """Return the hash under which the database stores a token."""
    # A token has 256 random bits, so a fast hash is as safe as a slow one.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def identify(database: Database, token: str) -> Principal | None:
    """Return the principal of a token; None if the token is unknown, revoked or expired."""
    sha256 = digest(token)
    with database.engine.connect() as connection:
        row = connection.execute(_BY_HASH, {"sha256": sha256}).one_or_none()
    if row is None:
        return None
    token_id, name, scopes, stored_sha256 = row
    # The row is found by the hash, which a caller cannot choose. The comparison takes constant time.
    if not hmac.compare_digest(stored_sha256, sha256):
        return None
    return Principal(token_id, name, frozenset().union(*(_IMPLIED.get(scope, frozenset()) for scope in scopes)))


def add_token(session: Session, token: str, name: str, scopes: list[str]) -> None:
    """Store a token. Nothing changes if it is stored already."""
    if session.scalars(select(Token).where(Token.sha256 == digest(token))).one_or_none() is None:
        session.add(Token(id=new_id(), name=name, sha256=digest(token), scopes=scopes, created_at=now(session)))


def create(session: Session, request: TokenRequest, principal: Principal) -> CreatedToken:
    """Create a token. Only the returned object contains its text.

    Raises:
        ApiError: 409 if a token of that name is in use; experiments record the name as their submitter.
    """
    if session.scalars(select(Token.id).where(Token.name == request.name, _is_valid())).first():
        raise conflict(
            f"a token named {request.name!r} is in use; revoke it, or choose another name",
            ProblemField(path="name", message="is taken"),
        )
    text = PREFIX + secrets.token_urlsafe(32)
    time_now = now(session)
    days = request.expires_in_days
    token = Token(
        id=new_id(),
        name=request.name,
        sha256=digest(text),
        scopes=list(dict.fromkeys(request.scopes)),
        created_at=time_now,
        created_by=principal.name,
        expires_at=time_now + timedelta(days=days) if days else None,
    )
    session.add(token)
    session.flush()
    return CreatedToken(**_to_token_info(token, time_now).model_dump(), token=text)


def list_tokens(session: Session) -> list[TokenInfo]:
    """Return every token, newest first, without their texts and hashes."""
    time_now = now(session)
    return [_to_token_info(token, time_now) for token in session.scalars(select(Token).order_by(Token.id.desc()))]


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
    return _to_token_info(token, time_now)


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
    if connection.scalars(select(Token.id).where(Token.id == owner, _is_valid())).first():
        raise ApiError(403, "this worker registered with another token, which is still in use")


def _is_valid() -> ColumnElement[bool]:
    return and_(Token.revoked_at.is_(None), or_(Token.expires_at.is_(None), Token.expires_at > db_now()))


def _to_token_info(token: Token, time_now: datetime) -> TokenInfo:
    expired = token.expires_at is not None and token.expires_at <= time_now
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
        }
    )


_BY_HASH = select(Token.id, Token.name, Token.scopes, Token.sha256).where(
    Token.sha256 == bindparam("sha256"), _is_valid()
)


def bootstrap(database: Database, settings: Settings) -> None:
    """Store the tokens of the admin, of workers and, if the settings name a file, of the dashboard.

    A token is created if its file does not exist. An existing file is used, so that a second start, another replica and
    a new database keep the token. A token that has been revoked is replaced, because otherwise no program on this
    machine could authenticate.

    Raises:
        TokenFileError: A file cannot be read, or its token is easily guessed.
    """
    files = [("admin", settings.admin_token_file, ADMIN_SCOPES), ("worker", settings.worker_token_file, WORKER_SCOPES)]
    if settings.dashboard_token_file:
        files.append(("dashboard", settings.dashboard_token_file, DASHBOARD_SCOPES))
    for name, file, scopes in files:
        token = _token_in(file)
        with database.write() as session:
            if session.scalars(select(Token.id).where(Token.sha256 == digest(token), ~_is_valid())).first():
                token = _token_in(file, refused=token)
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
