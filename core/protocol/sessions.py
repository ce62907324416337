"""Sign-in, sessions, passwords, and a person's own account."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, SecretStr

from core.protocol.access import TokenInfo
from core.protocol.base import Message, RequestBody
from core.protocol.people import Person
from core.specs.text_rules import VisibleText

SignInMethod = Literal["password", "invitation", "oidc"]

MIN_PASSWORD = 12
MAX_PASSWORD = 256
MAX_ID_TOKEN = 12_000
"""Characters of an ID token."""
CURRENT = "current"
"""Names the session of the request in a path."""
SESSION_KEY = r"^(current|[0-9a-hjkmnp-tv-z]{16})$"

# Longer texts are refused before they are hashed; the rules of a new password are the backend's.
Password = Annotated[SecretStr, Field(min_length=1, max_length=MAX_PASSWORD)]
NewPassword = Annotated[
    SecretStr,
    Field(
        min_length=1,
        max_length=MAX_PASSWORD,
        description=f"At least {MIN_PASSWORD} characters after NFKC normalisation, at least 5 of them different; not "
        "the name or the mail address of the person.",
    ),
]
ClientName = Annotated[
    VisibleText,
    Field(max_length=100, description="What the session is used with, such as a browser; shown in its list."),
]


class SignIn(RequestBody):
    """POST /sessions."""

    person: str = Field(min_length=1, max_length=60, description="Name of the person.")
    password: Password
    client: ClientName = ""
    earlier_session: SecretStr | None = Field(
        None,
        max_length=200,
        description="Token of an earlier session of the person, which may have ended. It shows that the person has "
        "signed in on this device before, where failed sign-ins of others do not count.",
    )


class InvitationSignIn(RequestBody):
    """POST /sessions/invitation."""

    code: SecretStr = Field(min_length=1, max_length=100, description="The code that an admin of the lab gave.")
    password: NewPassword
    client: ClientName = ""


class OidcSignIn(RequestBody):
    """POST /sessions/oidc."""

    id_token: SecretStr = Field(min_length=1, max_length=MAX_ID_TOKEN, description="ID token of the configured issuer.")
    nonce: SecretStr | None = Field(
        None, max_length=200, description="The nonce that the client sent to the issuer; it must be the token's."
    )
    client: ClientName = ""


class PasswordChange(RequestBody):
    """PUT /account/password."""

    current: Password
    new: NewPassword


class PasswordRequest(RequestBody):
    """PUT /people/{person}/password."""

    password: NewPassword


class InvitationRequest(RequestBody):
    """POST /people/{person}/invitation."""

    expires_in_hours: float = Field(72.0, gt=0, le=720)


class Session(Message):
    """A session: a token that a person got by signing in, which ends by itself."""

    id: str
    person: str = Field(description="The person's name.")
    method: SignInMethod = Field(description="How the person signed in.")
    client: str = ""
    address: str = Field("", description="Network address at which the session was begun.")
    created_at: datetime
    last_used_at: datetime | None = Field(None, description="Time of the last request, up to five minutes.")
    idle_ends_at: datetime = Field(description="Time at which the session ends if it is not used until then.")
    ends_at: datetime = Field(description="Time at which the session ends in any case.")
    current: bool = Field(False, description="Whether the request was sent with this session.")


class CreatedSession(Session):
    """A new session with its token."""

    token: str = Field(description="The bearer token. It is shown only in this answer and not stored.")


class SessionList(Message):
    items: list[Session] = Field(description="The person's sessions that have not ended, newest first.")


class EndedSessions(Message):
    """How many sessions a request has ended."""

    ended: int


class Invitation(Message):
    """A code with which a person sets a password, once. An earlier code of the person has ended."""

    person: str
    code: str = Field(description="The code. It is shown only in this answer and not stored.")
    ends_at: datetime


class Account(Message):
    """The sender of a request, as a person."""

    person: Person
    password_changed_at: datetime | None = Field(None, description="null without a password.")
    tokens: list[TokenInfo] = Field(description="The person's tokens that are not sessions, newest first.")
