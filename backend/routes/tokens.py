"""Tokens, for admins: create, list, revoke."""

from __future__ import annotations

from fastapi import APIRouter

from backend import tokens
from backend.api.boundary import BoundedRoute
from backend.api.dependencies import AdminDep, DatabaseDep, SessionDep, administers
from core.protocol.access import CreatedToken, TokenInfo, TokenList, TokenRequest

router = APIRouter(prefix="/tokens", tags=["tokens"], route_class=BoundedRoute)


@router.post("", status_code=201, responses={409: {"description": "A token of that name is in use"}})
def create_token(request: TokenRequest, principal: AdminDep, database: DatabaseDep) -> CreatedToken:
    """Create a token. Only this answer contains the token's text; the backend stores its hash.

    The request cannot be repeated: a second request with the same name is refused with 409.
    """
    with database.write() as session:
        return tokens.create(session, request, principal)


@router.get("", dependencies=[administers])
def list_tokens(session: SessionDep) -> TokenList:
    """List every token ever created, newest first, without the tokens' texts."""
    return TokenList(items=tokens.list_tokens(session))


@router.delete("/{token_id}", responses={409: {"description": "The request was sent with this token"}})
def revoke_token(token_id: str, principal: AdminDep, database: DatabaseDep) -> TokenInfo:
    """Revoke a token: it is refused from the next request on. Repeating has no effect."""
    with database.write() as session:
        return tokens.revoke(session, token_id, principal)
