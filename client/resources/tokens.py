"""``client.tokens`` creates, lists and revokes access tokens, for admins."""

from __future__ import annotations

from collections.abc import Sequence

from client.connection import API, build_body, path_segment
from client.resources.base import Resource
from core.protocol.access import CreatedToken, Scope, TokenInfo, TokenList, TokenRequest

_PATH = f"{API}/tokens"


class Tokens(Resource):
    """Calls on tokens. The caller's token needs the scope admin."""

    def list(self) -> TokenList:
        """Return every token's name, scopes and state, without the tokens' texts."""
        return self._connection.send("GET", _PATH, TokenList, idempotent=True)

    def __call__(self) -> TokenList:
        """Alias of ``list``, for scripts that call ``client.tokens()``."""
        return self.list()

    def create(self, name: str, scopes: Sequence[Scope], *, expires_in_days: float | None = None) -> CreatedToken:
        """Create a token. Only this reply contains its text. The request is not repeated.

        Raises:
            SpecError: A field has an invalid value.
        """
        body = build_body(TokenRequest, name=name, scopes=[*scopes], expires_in_days=expires_in_days)
        return self._connection.send("POST", _PATH, CreatedToken, body=body)

    def revoke(self, token_id: str) -> TokenInfo:
        """Revoke a token. Repeating the call changes nothing."""
        return self._connection.send("DELETE", f"{_PATH}/{path_segment(token_id)}", TokenInfo, idempotent=True)
