"""Tokens and their permissions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from pydantic import Field

from core.protocol.base import Message, RequestBody
from core.specs.text_rules import VisibleText

Scope = Literal["read", "submit", "worker", "admin"]

EXPIRY_WARNING = timedelta(days=14)
"""Time before the end of a token at which the backend begins to announce it."""
EXPIRY_HEADER = "DKD-Token-Ends"
"""Response header of a request whose token ends soon, such as ``2026-12-10T09:00:00Z; replaced``."""
_REPLACED = "; replaced"


@dataclass(frozen=True)
class TokenEnd:
    """The announced end of the token that a request was sent with.

    Attributes:
        ends_at: Time from which on the backend refuses the text of the token.
        replaced: Whether the token was rotated, so that it already has a new text.
    """

    ends_at: datetime
    replaced: bool = False

    def header(self) -> str:
        """Return the value of the header ``EXPIRY_HEADER``."""
        return f"{self.ends_at:%Y-%m-%dT%H:%M:%SZ}{_REPLACED if self.replaced else ''}"

    @classmethod
    def parse(cls, header: str) -> TokenEnd | None:
        """Return the end that a header announces; None if the value is not one of ``header``."""
        try:
            ends_at = datetime.fromisoformat(header.removesuffix(_REPLACED))
        except ValueError:
            return None
        return cls(ends_at, header.endswith(_REPLACED)) if ends_at.tzinfo else None

    def sentence(self) -> str:
        """Return a sentence for people, which names the remedy."""
        time = f"{self.ends_at:%Y-%m-%d %H:%M} UTC"
        if self.replaced:
            return f"this token has been replaced, and its earlier text ends at {time}: use the new text"
        return f"this token ends at {time}: an admin renews it with `dkd token rotate NAME --days DAYS`"


class TokenRequest(RequestBody):
    """POST /tokens."""

    name: VisibleText = Field(
        min_length=1,
        max_length=100,
        pattern=r"^\S(.*\S)?$",
        description="Name of the token; for a service, experiments show it as their submitter.",
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
    person: str | None = Field(
        None,
        max_length=60,
        description="Name of the person who uses the token, which then permits in each project no more than the "
        "person's role. If left out, it is the token of a service, for all projects.",
    )


class RotationRequest(RequestBody):
    """POST /tokens/{id}/rotate."""

    overlap_hours: float = Field(
        24.0,
        ge=0,
        le=720,
        description="Time for which the earlier text stays valid beside the new one; 0 ends all earlier texts at once.",
    )
    expires_in_days: float | None = Field(
        None, gt=0, le=3650, description="New lifetime of the token; if left out, its end does not change."
    )


class TokenInfo(Message):
    """A token without its secret."""

    id: str
    name: str
    scopes: list[Scope]
    state: Literal["active", "expired", "revoked"]
    created_at: datetime
    created_by: str = Field(
        "",
        description="Name of the person who created it, or of a service's token; empty for those of the first start.",
    )
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    rotated_at: datetime | None = Field(None, description="Time at which the token got its present text.")
    earlier_text_ends_at: datetime | None = Field(
        None,
        description="Time at which the last earlier text of the token ends; null if only the present one is valid.",
    )
    last_used_at: datetime | None = Field(None, description="Time of the last request, up to five minutes.")
    person: str | None = Field(None, description="Name of the person who uses it; null for a service.")


class CreatedToken(TokenInfo):
    """A new token with its secret."""

    token: str = Field(description="The secret. It is shown only in this answer and not stored.")


class RotatedToken(CreatedToken):
    """A token with its new secret."""

    files: list[str] = Field(
        default_factory=list,
        description="Names of the backend's token files (admin, worker, dashboard) that contain the new secret now.",
    )
    unwritable_files: list[str] = Field(
        default_factory=list,
        description="Names of its token files that still contain the earlier secret, because it cannot write them.",
    )


class TokenList(Message):
    items: list[TokenInfo]
