"""Tokens, for admins: create, list, rotate, revoke."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool

from backend import tokens
from backend.access import rotation
from backend.access.last_use import LastUse
from backend.api.boundary import BoundedRoute
from backend.api.dependencies import AdminDep, DatabaseDep, SettingsDep, administers
from core.protocol.access import CreatedToken, RotatedToken, RotationRequest, TokenInfo, TokenList, TokenRequest

router = APIRouter(prefix="/tokens", tags=["tokens"], route_class=BoundedRoute)


@router.post("", status_code=201, responses={409: {"description": "A token of that name is in use"}})
def create_token(request: TokenRequest, principal: AdminDep, database: DatabaseDep) -> CreatedToken:
    """Create a token. Only this answer contains the token's text; the backend stores its hash.

    The request cannot be repeated: a second request with the same name is refused with 409.
    """
    with database.write() as session:
        return tokens.create(session, request, principal)


@router.get("", dependencies=[administers])
async def list_tokens(request: Request, database: DatabaseDep) -> TokenList:
    """List every token ever created, newest first, without the tokens' texts."""
    last_use: LastUse = request.app.state.last_use
    await last_use.flush()

    def read() -> TokenList:
        with database.read() as session:
            return TokenList(items=tokens.list_tokens(session))

    return await run_in_threadpool(read)


@router.post("/{token_id}/rotate", dependencies=[administers], responses={409: {"description": "The token has ended"}})
def rotate_token(token_id: str, request: RotationRequest, database: DatabaseDep, settings: SettingsDep) -> RotatedToken:
    """Give a token a new text. The earlier text stays valid for `overlap_hours`, so that nobody is interrupted.

    The token's id, name, scopes and workers do not change. Only this answer contains the new text. Each request makes
    a new text.
    """
    with database.write() as session:
        rotated = rotation.rotate(session, token_id, request)
    return rotation.write_files(database, settings, rotated)


@router.delete("/{token_id}", responses={409: {"description": "The request was sent with this token"}})
def revoke_token(token_id: str, principal: AdminDep, database: DatabaseDep) -> TokenInfo:
    """Revoke a token: it is refused from the next request on. Repeating has no effect."""
    with database.write() as session:
        return tokens.revoke(session, token_id, principal)
