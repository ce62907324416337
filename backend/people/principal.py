"""The sender of a request: a service's token, or a person with roles in projects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from core.protocol.access import EXPIRY_WARNING, TokenEnd
from core.protocol.people import Role


@dataclass(frozen=True)
class PersonRights:
    """The person behind a token.

    Attributes:
        id: The person's id.
        name: The person's name.
        admin: Whether the person is an admin of the lab.
        roles: The person's role by the name of the project.
    """

    id: str
    name: str
    admin: bool
    roles: Mapping[str, Role] = field(default_factory=dict)


@dataclass(frozen=True)
class Principal:
    """The sender of a request.

    Attributes:
        token_id: Id of the request's token.
        name: Name of that token.
        scopes: Scopes of that token, including implied scopes; without admin for people who are no admins of the lab.
        person: The person whose token it is; None for a service.
        manages: Whether the token has the scope admin, so that its person may use the role admin.
        ends_at: Time at which the text that was sent ends; None if it does not.
        replaced: Whether the text is an earlier one of a token that was rotated.
        in_session: Whether the token is a session.
    """

    token_id: str
    name: str
    scopes: frozenset[str]
    person: PersonRights | None = None
    manages: bool = False
    ends_at: datetime | None = None
    replaced: bool = False
    in_session: bool = False

    def announced_end(self, time_now: datetime) -> TokenEnd | None:
        """Return the end of the text that was sent if the response has to announce it.

        That of a session is not announced: its person signs in again, and no admin can renew it.
        """
        if self.in_session:
            return None
        soon = self.ends_at is not None and (self.replaced or self.ends_at - time_now < EXPIRY_WARNING)
        return TokenEnd(self.ends_at, self.replaced) if soon and self.ends_at else None

    @property
    def sees_everything(self) -> bool:
        """Whether the scopes hold for all projects."""
        return self.person is None or (self.person.admin and self.manages)

    @property
    def submitter(self) -> str:
        """Name of the person, or of the service's token, that experiments record."""
        return self.person.name if self.person else self.name

    @property
    def roles(self) -> Mapping[str, Role]:
        """The person's role by the name of the project."""
        return self.person.roles if self.person else {}
