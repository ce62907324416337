"""``Idempotency-Key``: repeating a POST whose answer was lost creates nothing twice."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select

from backend.db import db_now, new_id
from backend.db.models import IdempotencyKey
from backend.db.upsert import insert_if_absent
from backend.errors import ApiError, invalid


@dataclass(frozen=True)
class KeyedRequest:
    """A POST with an ``Idempotency-Key``.

    Attributes:
        token_id: Id of the token that sent it; equal keys of two tokens are independent.
        key: The header's value.
        body_sha256: SHA-256 of the body.
    """

    token_id: str
    key: str
    body_sha256: str


def find(connection: Connection, request: KeyedRequest) -> list[str] | None:
    """Return the ids of the experiments that this request created before; None if it is new.

    Raises:
        ApiError: 422 if the key was used with another body.
    """
    query = select(IdempotencyKey.body_sha256, IdempotencyKey.made).where(
        IdempotencyKey.token_id == request.token_id, IdempotencyKey.key == request.key
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    if row.body_sha256 != request.body_sha256:
        raise key_reused()
    experiment_ids: list[str] = row.made
    return experiment_ids


def remember(connection: Connection, request: KeyedRequest, experiment_ids: list[str]) -> bool:
    """Store the ids of the experiments that the request created.

    Returns:
        False if the same request has been stored before.
    """
    values = {
        "id": new_id(),
        "token_id": request.token_id,
        "key": request.key,
        "body_sha256": request.body_sha256,
        "made": experiment_ids,
        "created_at": db_now(),
    }
    return insert_if_absent(connection, IdempotencyKey, values, unique=["token_id", "key"])


def key_reused() -> ApiError:
    """Return the error for a key that was used with another body."""
    return invalid("this Idempotency-Key was sent before with another body; use a new key")
