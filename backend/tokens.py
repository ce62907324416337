"""Bearer tokens, of which the database holds only the hashes. The first two are made at the start, in private files."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import tempfile
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import structlog
from sqlalchemy import ColumnElement, Connection, and_, bindparam, inspect, or_, select
from sqlalchemy.orm import Session

from backend.db import Database, db_now, new_id, now
from backend.db.models import Token
from backend.db.prepared import Prepared
from backend.errors import ApiError, conflict, not_found
from backend.settings import Settings
from common.token_files import TokenFileError, read_token, weakness_of
from core.protocol.access import TokenInfo, TokenMade, TokenRequest
from core.protocol.public import ProblemField

_log = structlog.get_logger(__name__)

# Whoever may submit may also look, and an admin may do both; a worker's token opens nothing else, and nothing else
# opens a worker's routes.
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
"""Of every new token, so that a scanner finds one that was committed by mistake."""


@dataclass(frozen=True)
class Principal:
    """Who sent a request.

    Attributes:
        token_id: of the token it came with.
        name: of that token: who submitted an experiment.
        scopes: what that token allows, what follows from it included.
    """

    token_id: str
    name: str
    scopes: frozenset[str]


def digest(token: str) -> str:
    # A token has 256 random bits, so a fast hash is as good as a slow one.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def identify(database: Database, token: str) -> Principal | None:
    """Who holds this token; None where it is unknown, revoked or expired."""
    wanted = digest(token)
    row = _BY_HASH.find(database, {"wanted": wanted})
    if row is None:
        return None
    token_id, name, scopes, known = row
    # The index finds by hash, of which a caller can choose no part; the comparison itself takes one time for all.
    if not hmac.compare_digest(known, wanted):
        return None
    return Principal(token_id, name, frozenset().union(*(_IMPLIED.get(scope, frozenset()) for scope in scopes)))


def add_token(session: Session, token: str, name: str, scopes: list[str]) -> None:
    """Let a token in. Nothing changes where it is known already."""
    if session.scalars(select(Token).where(Token.sha256 == digest(token))).one_or_none() is None:
        session.add(Token(id=new_id(), name=name, sha256=digest(token), scopes=scopes, created_at=now(session)))


def create(session: Session, request: TokenRequest, principal: Principal) -> TokenMade:
    """A new token. Its text is in the answer and nowhere else.

    Raises ApiError 409 where a token of that name is in use: "who submitted what" is said by the name.
    """
    if session.scalars(select(Token.id).where(Token.name == request.name, _live())).first():
        raise conflict(
            f"a token named {request.name!r} is in use; revoke it, or take another name",
            ProblemField(path="name", message="is taken"),
        )
    text = PREFIX + secrets.token_urlsafe(32)
    moment = now(session)
    days = request.expires_in_days
    token = Token(
        id=new_id(),
        name=request.name,
        sha256=digest(text),
        scopes=list(dict.fromkeys(request.scopes)),
        created_at=moment,
        created_by=principal.name,
        expires_at=moment + timedelta(days=days) if days else None,
    )
    session.add(token)
    session.flush()
    return TokenMade(**_info(token, moment).model_dump(), token=text)


def listed(session: Session) -> list[TokenInfo]:
    """Every token, newest first, without what would let anybody in."""
    moment = now(session)
    return [_info(token, moment) for token in session.scalars(select(Token).order_by(Token.id.desc()))]


def revoke(session: Session, token_id: str, principal: Principal) -> TokenInfo:
    """Shut a token out from the next request on. Repeating changes nothing.

    Raises ApiError 404, or 409 for the token of the request itself, so that nobody locks the last admin out.
    """
    token = session.get(Token, token_id)
    if token is None:
        raise not_found("token", token_id)
    if token.id == principal.token_id:
        raise conflict("this is the token of this very request; revoke it with another one")
    moment = now(session)
    token.revoked_at = token.revoked_at or moment
    return _info(token, moment)


def refuse_other(connection: Connection, owner: str | None, principal: Principal) -> None:
    """Raises ApiError 403 where the token ``owner`` is still good, and is not the one that this is asked with."""
    if owner in (None, principal.token_id):
        return
    if connection.scalars(select(Token.id).where(Token.id == owner, _live())).first():
        raise ApiError(403, "this worker registered with another token, which is still in use")


def _live() -> ColumnElement[bool]:
    return and_(Token.revoked_at.is_(None), or_(Token.expires_at.is_(None), Token.expires_at > db_now()))


def _info(token: Token, moment: datetime) -> TokenInfo:
    over = token.expires_at is not None and token.expires_at <= moment
    return TokenInfo.model_validate(
        {
            "id": token.id,
            "name": token.name,
            "scopes": token.scopes,
            "state": "revoked" if token.revoked_at else "expired" if over else "active",
            "created_at": token.created_at,
            "created_by": token.created_by,
            "expires_at": token.expires_at,
            "revoked_at": token.revoked_at,
        }
    )


# Made once and not with every request: to make it takes longer than to carry it out.
_TOKENS = inspect(Token).local_table.c
_BY_HASH = Prepared(
    select(_TOKENS.id, _TOKENS.name, _TOKENS.scopes, _TOKENS.sha256).where(
        _TOKENS.sha256 == bindparam("wanted"), _live()
    )
)


def bootstrap(database: Database, settings: Settings) -> None:
    """Make the admin's and the worker's token where there is no file of them, and let both in.

    So too the dashboard's, where the settings name a file for it.

    A file that is there is used as it is, so that a second start, another replica and a new database keep it; but a
    token that was revoked since gives way to a new one, without which nothing on this machine would come in.
    """
    wanted = [("admin", settings.admin_token_file, ADMIN_SCOPES), ("worker", settings.worker_token_file, WORKER_SCOPES)]
    if settings.dashboard_token_file:
        wanted.append(("dashboard", settings.dashboard_token_file, DASHBOARD_SCOPES))
    for name, file, scopes in wanted:
        token = _token_in(file)
        with database.write() as session:
            if session.scalars(select(Token.id).where(Token.sha256 == digest(token), ~_live())).first():
                token = _token_in(file, refused=token)
            add_token(session, token, name, scopes)


def _token_in(file: Path, refused: str = "") -> str:
    """The token in the file, made where there is none or only the one that is refused.

    Raises TokenFileError where the file cannot be read, or holds a token that is too easily guessed.
    """
    with contextlib.suppress(FileNotFoundError):
        found = read_token(file)
        if found.warning:
            _log.warning(found.warning)
        if found.token and found.token != refused:
            if weakness := weakness_of(found.token):
                raise TokenFileError(
                    f"the token in {file} is not used: {weakness}; remove the file, and a token is made for it"
                )
            return found.token
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Written apart and linked into place: of two processes that start at once, one wins and both read its token.
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=".new-")  # mode 0600 from the first moment
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(secrets.token_urlsafe(32) + "\n")
        if file.exists():  # it is there, but empty or refused
            os.replace(name, file)
        else:
            with contextlib.suppress(FileExistsError):
                os.link(name, file)
    finally:
        Path(name).unlink(missing_ok=True)
    return read_token(file).token
