"""Tokens: who may do what."""

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
        description="Of a person or a script: what experiments are shown to be submitted by.",
        examples=["nightly-sweep"],
    )
    scopes: list[Scope] = Field(
        min_length=1,
        max_length=4,
        description="read: see everything. submit: read, and submit, change, cancel and delete. worker: claim runs and "
        "report on them, nothing else. admin: submit, and make and revoke tokens.",
        examples=[["submit"]],
    )
    expires_in_days: float | None = Field(None, gt=0, le=3650, description="Left out, it does not expire.")


class TokenInfo(Message):
    """A token, without what would let anybody in."""

    id: str
    name: str
    scopes: list[Scope]
    state: Literal["active", "expired", "revoked"]
    created_at: datetime
    created_by: str = Field("", description="Name of the token that made it; empty for those of the first start.")
    expires_at: datetime | None = None
    revoked_at: datetime | None = None


class CreatedToken(TokenInfo):
    token: str = Field(description="The token itself. It is shown this once and kept nowhere.")


class TokenList(Message):
    items: list[TokenInfo]
