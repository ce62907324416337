"""Rotation of tokens: a token gets a new text, and the earlier text stays valid for some time.

Everything that belongs to the token stays: its id, name, scopes and workers. The present text is in the row of the
token, where every request looks first; earlier texts are in a table of their own.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import structlog
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from backend import audit
from backend.db import Database, now
from backend.db.models import EarlierTokenText, Token
from backend.errors import conflict, not_found
from backend.settings import Settings
from backend.tokens import PREFIX, digest, to_token_info
from common.atomic_write import atomic_write
from common.token_files import read_token
from core.protocol.access import RotatedToken, RotationRequest

_log = structlog.get_logger(__name__)


def rotate(session: Session, token_id: str, request: RotationRequest) -> RotatedToken:
    """Give a token a new text. Only the returned object contains it.

    The present text ends after the overlap, and never later than it would have ended without the rotation. Earlier
    texts keep their own ends, unless the overlap is 0: then all of them end at once.

    Raises:
        ApiError: 404 if there is no such token; 409 if it was revoked, has expired or is a session.
    """
    token = session.get(Token, token_id, with_for_update=True)
    if token is None:
        raise not_found("token", token_id)
    if token.session is not None:
        raise conflict("this is a session, which ends; its person signs in again")
    time_now = now(session)
    state = to_token_info(session, token, time_now).state
    if state != "active":
        raise conflict(f"this token is {state}; create a new one")
    overlap_end = time_now + timedelta(hours=request.overlap_hours)
    ends_at = min(overlap_end, token.expires_at) if token.expires_at else overlap_end
    # Kept after its end too: a start of the backend must recognise a file that still contains it.
    session.add(EarlierTokenText(sha256=token.sha256, token_id=token_id, ends_at=ends_at))
    if request.overlap_hours:
        token.earlier_text_ends_at = max(ends_at, token.earlier_text_ends_at or ends_at)
    else:
        session.flush()
        earlier = update(EarlierTokenText).where(EarlierTokenText.token_id == token_id)
        session.execute(earlier.where(EarlierTokenText.ends_at > time_now).values(ends_at=time_now))
        token.earlier_text_ends_at = time_now
    text = PREFIX + secrets.token_urlsafe(32)
    token.sha256 = digest(text)
    token.rotated_at = time_now
    if request.expires_in_days:
        token.expires_at = time_now + timedelta(days=request.expires_in_days)
    session.flush()
    audit.about("token", token.id, name=token.name, overlap_hours=request.overlap_hours)
    return RotatedToken(**to_token_info(session, token, time_now).model_dump(), token=text)


def write_files(database: Database, settings: Settings, rotated: RotatedToken) -> RotatedToken:
    """Write the new text into the backend's own token files that contain an earlier text of the token.

    Returns:
        The token with the names of these files.
    """
    written, unwritable = [], []
    for name, file in _token_files(settings):
        if not _contains_earlier_text(database, file, rotated.id):
            continue
        try:
            atomic_write(file, rotated.token + "\n", private=True)
            written.append(name)
        except OSError as error:
            _log.warning("the new text of a token could not be written", file=str(file), error=error.strerror)
            unwritable.append(name)
    return rotated.model_copy(update={"files": written, "unwritable_files": unwritable})


def _token_files(settings: Settings) -> Iterator[tuple[str, Path]]:
    yield "admin", settings.admin_token_file
    yield "worker", settings.worker_token_file
    if settings.dashboard_token_file:
        yield "dashboard", settings.dashboard_token_file


def _contains_earlier_text(database: Database, file: Path, token_id: str) -> bool:
    try:
        text = read_token(file).token
    except OSError:  # it does not exist, or cannot be read
        return False
    with database.read() as session:
        earlier = select(EarlierTokenText.token_id).where(EarlierTokenText.sha256 == digest(text))
        return session.scalar(earlier) == token_id
