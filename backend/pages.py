"""Pages of a list, newest first. A cursor is opaque: where the last page ended, not how many pages there were."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

from fastapi import Query

from backend.errors import invalid
from core.wire.public import ProblemField

Limit = Annotated[int, Query(ge=1, le=500, description="How many to a page.")]
Cursor = Annotated[str | None, Query(max_length=200, description="`next_cursor` of the page before.")]


def encode_cursor(last_id: str) -> str:
    return base64.urlsafe_b64encode(f"after:{last_id}".encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> str:
    """The id it stands for. Raises ApiError 422 where it is not one of ours."""
    try:
        text = base64.urlsafe_b64decode(cursor.encode() + b"=" * (-len(cursor) % 4)).decode()
    except (binascii.Error, UnicodeError):
        text = ""
    kind, _, last_id = text.partition(":")
    if kind != "after" or not last_id or "\0" in last_id:
        raise invalid(
            "this cursor is not one that a list has given out", ProblemField(path="cursor", message="unknown")
        )
    return last_id
