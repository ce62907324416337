"""Bearer tokens: made on first start, kept in files of mode 0600, of which the database holds only the hashes."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db import Database, new_id, now
from backend.db.models import Token
from backend.settings import Settings

SCOPES = {"read": "See everything.", "write": "Submit, cancel, retry.", "worker": "Claim runs and report on them."}
ADMIN_SCOPES = ["read", "write"]
WORKER_SCOPES = ["worker"]


@dataclass(frozen=True)
class Principal:
    """Who sent a request.

    Attributes:
        token_id: of the token it came with.
        scopes: what that token allows.
    """

    token_id: str
    scopes: frozenset[str]


def digest(token: str) -> str:
    # A token has 256 random bits, so a fast hash is as good as a slow one.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def identify(session: Session, token: str) -> Principal | None:
    """Who holds this token; None where it is unknown or revoked."""
    wanted = digest(token)
    row = session.scalars(select(Token).where(Token.sha256 == wanted, Token.revoked_at.is_(None))).one_or_none()
    if row is None or not hmac.compare_digest(row.sha256, wanted):
        return None
    return Principal(row.id, frozenset(row.scopes))


def add_token(session: Session, token: str, name: str, scopes: list[str]) -> None:
    """Let a token in. Nothing changes where it is known already."""
    if session.scalars(select(Token).where(Token.sha256 == digest(token))).one_or_none() is None:
        session.add(Token(id=new_id(), name=name, sha256=digest(token), scopes=scopes, created_at=now(session)))


def bootstrap(database: Database, settings: Settings) -> None:
    """Make the admin's and the worker's token where there is no file of them, and let both in.

    A file that is there is used as it is, so that a second start, another replica and a new database keep it.
    """
    wanted = (("admin", settings.admin_token_file, ADMIN_SCOPES), ("worker", settings.worker_token_file, WORKER_SCOPES))
    for name, file, scopes in wanted:
        token = _token_in(file)
        with database.write() as session:
            add_token(session, token, name, scopes)


def _token_in(file: Path) -> str:
    if file.exists():
        token = file.read_text(encoding="utf-8").strip()
        if token:
            return token
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Written apart and linked into place: of two processes that start at once, one wins and both read its token.
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=".new-")  # mode 0600 from the first moment
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(secrets.token_urlsafe(32) + "\n")
        if file.exists():  # it is there, but empty
            os.replace(name, file)
        else:
            with contextlib.suppress(FileExistsError):
                os.link(name, file)
    finally:
        Path(name).unlink(missing_ok=True)
    return file.read_text(encoding="utf-8").strip()
