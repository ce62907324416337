"""``client.tokens`` creates, lists, rotates and revokes access tokens, for admins."""

from __future__ import annotations

from collections.abc import Sequence

from client.connection import API, build_body, path_segment
from client.resources.base import Resource
from core.protocol.access import (
    CreatedToken,
    RotatedToken,
    RotationRequest,
    Scope,
    TokenInfo,
    TokenList,
    TokenRequest,
)

_PATH = f"{API}/tokens"


class Tokens(Resource):
    """Calls on tokens. The caller's token needs the scope admin."""

    def list(self) -> TokenList:
        """Return every token's name, scopes and state, without the tokens' texts."""
        return self._connection.send("GET", _PATH, TokenList, idempotent=True)

    def __call__(self) -> TokenList:
        """Alias of ``list``, for scripts that call ``client.tokens()``."""
        return self.list()

    def create(
        self,
        name: str,
        scopes: Sequence[Scope],
        *,
        expires_in_days: float | None = None,
        person: str | None = None,
    ) -> CreatedToken:
        """Create a token. Only this reply contains its text. The request is not repeated.

        Args:
            name: Name of the token.
            scopes: What it permits.
            expires_in_days: None for a token that does not expire.
            person: Name of the person who uses it; None for a service, which sees all projects.

        Raises:
            SpecError: A field has an invalid value.
        """
        body = build_body(TokenRequest, name=name, scopes=[*scopes], expires_in_days=expires_in_days, person=person)
        # An older backend refuses the field ``person``.
        return self._connection.send("POST", _PATH, CreatedToken, body=body.model_dump(exclude_none=True))

    def rotate(
        self, token_id: str, *, overlap_hours: float = 24.0, expires_in_days: float | None = None
    ) -> RotatedToken:
        """Give a token a new text, which only this reply contains. The request is not repeated.

        Args:
            token_id: Id of the token. Its id, name, scopes and workers do not change.
            overlap_hours: Hours for which the earlier text stays valid.
            expires_in_days: New lifetime of the token; None to leave its end.

        Raises:
            SpecError: An argument has an invalid value.
        """
        body = build_body(RotationRequest, overlap_hours=overlap_hours, expires_in_days=expires_in_days)
        return self._connection.send("POST", f"{_PATH}/{path_segment(token_id)}/rotate", RotatedToken, body=body)

    def revoke(self, token_id: str) -> TokenInfo:
        """Revoke a token. Repeating the call changes nothing."""
        return self._connection.send("DELETE", f"{_PATH}/{path_segment(token_id)}", TokenInfo, idempotent=True)
