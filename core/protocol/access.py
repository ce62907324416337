"""Tokens and their permissions."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from core.protocol.base import Message, RequestBody
from core.specs.text_rules import VisibleText

Scope = Literal["read", "submit", "worker", "admin"]


class TokenRequest(RequestBody):
    """POST /tokens."""

    name: VisibleText = Field(
        min_length=1,
        max_length=100,
        pattern=r"^\S(.*\S)?$",
        description="Name of the person or script that uses the token; experiments show it as their submitter.",
        examples=["nightly-sweep"],
    )
    scopes: list[Scope] = Field(
        min_length=1,
        max_length=4,
        description="read: read everything. submit: read, and also submit, change, cancel and delete. worker: "
        "claim runs and "
        "report on them, nothing else. admin: submit, and also create and revoke tokens.",
        examples=[["submit"]],
    )
    expires_in_days: float | None = Field(None, gt=0, le=3650, description="If left out, the token does not expire.")


class TokenInfo(Message):
    """A token without its secret."""

    id: str
    name: str
    scopes: list[Scope]
    state: Literal["active", "expired", "revoked"]
    created_at: datetime
    created_by: str = Field(
        "", description="Name of the token that created it; empty for the tokens of the first start."
    )
    expires_at: datetime | None = None
    revoked_at: datetime | None = None


class CreatedToken(TokenInfo):
    """A new token with its secret."""

    token: str = Field(description="The secret. It is shown only in this answer and not stored.")


class TokenList(Message):
    items: list[TokenInfo]
