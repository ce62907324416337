"""``Idempotency-Key``: a POST that is sent again, since its answer was lost, makes nothing new."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select

from backend.db import db_now, new_id
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


def find(connection: Connection, request: Request) -> list[str] | None:
    """Ids of the experiments that this request has made. Raises ApiError 422 where the key came with another body."""
    query = select(IdempotencyKey.body_sha256, IdempotencyKey.made).where(
        IdempotencyKey.token_id == request.token_id, IdempotencyKey.key == request.key
    )
    known = connection.execute(query).one_or_none()
    if known is None:
        return None
    if known.body_sha256 != request.body_sha256:
        raise reused()
    made: list[str] = known.made
    return made


def keep(connection: Connection, request: Request, made: list[str]) -> bool:
    """Remember what the request made; false where the same request is remembered already."""
    values = {
        "id": new_id(),
        "token_id": request.token_id,
        "key": request.key,
        "body_sha256": request.body_sha256,
        "made": made,
        "created_at": db_now(),
    }
    return insert_if_absent(connection, IdempotencyKey, values, unique=["token_id", "key"])


def reused() -> ApiError:
    return invalid("this Idempotency-Key was sent before with another body; take a new one")
