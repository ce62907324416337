"""``Idempotency-Key``: a POST that is sent again, since its answer was lost, makes nothing new."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db import new_id
from backend.db.models import IdempotencyKey
from backend.db.upsert import insert_if_absent
from backend.errors import ApiError, invalid


@dataclass(frozen=True)
class Request:
    """A POST with a key.

    Attributes:
        token_id: of who sent it; keys of two tokens have nothing to do with each other.
        key: as it was sent.
        body_sha256: of the body.
    """

    token_id: str
    key: str
    body_sha256: str


def find(session: Session, request: Request) -> list[str] | None:
    """Ids of the experiments that this request has made. Raises ApiError 422 where the key came with another body."""
    query = select(IdempotencyKey).where(IdempotencyKey.token_id == request.token_id, IdempotencyKey.key == request.key)
    known = session.scalars(query).one_or_none()
    if known is None:
        return None
    if known.body_sha256 != request.body_sha256:
        raise reused()
    return known.made


def keep(session: Session, request: Request, made: list[str], moment: datetime) -> bool:
    """Remember what the request made; false where the same request is remembered already."""
    values = {
        "id": new_id(),
        "token_id": request.token_id,
        "key": request.key,
        "body_sha256": request.body_sha256,
        "made": made,
        "created_at": moment,
    }
    return insert_if_absent(session, IdempotencyKey, values, unique=["token_id", "key"])


def reused() -> ApiError:
    return invalid("this Idempotency-Key was sent before with another body; take a new one")
