"""Sessions: sign in by password, invitation or ID token, list one's own sessions, and end them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool

from backend import audit
from backend.access.last_use import LastUse
from backend.access.rate_limiter import RateLimiter
from backend.api.boundary import BoundedRoute
from backend.api.dependencies import DatabaseDep, ReaderDep, SessionDep, SubmitterDep
from backend.sign_in import sessions
from backend.sign_in.oidc import OidcService
from backend.sign_in.service import SignInService
from backend.tokens import digest
from core.protocol.sessions import (
    CreatedSession,
    EndedSessions,
    InvitationSignIn,
    OidcSignIn,
    Session,
    SessionList,
    SignIn,
)

router = APIRouter(prefix="/sessions", tags=["sessions"], route_class=BoundedRoute)

_SERVICE: dict[int | str, dict[str, Any]] = {409: {"description": "The token belongs to a service"}}


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _remembered(http: Request, created: CreatedSession) -> CreatedSession:
    """Return a new session, which works also while its network may try no further tokens."""
    limiter: RateLimiter = http.app.state.rate_limiter
    limiter.remember(digest(created.token))
    return created


@router.post("", status_code=201, responses={401: {"description": "The name or the password is wrong"}})
async def sign_in(request: SignIn, http: Request) -> CreatedSession:
    """Sign in with a name and a password; needs no token. Only this answer contains the session's token.

    Every refusal has the same answer. After five failures with a name from a network, an attempt is admitted every 30
    seconds. `earlier_session` gives a device on which the person has signed in before attempts of its own.
    """
    service: SignInService = http.app.state.sign_in
    return _remembered(http, await service.by_password(request, _address(http)))


@router.post(
    "/invitation",
    status_code=201,
    responses={401: {"description": "The code is unknown, was used, or has ended"}},
)
async def sign_in_invited(request: InvitationSignIn, http: Request) -> CreatedSession:
    """Set a password with the code of an invitation, and sign in; needs no token. Earlier sessions end."""
    service: SignInService = http.app.state.sign_in
    return _remembered(http, await service.by_invitation(request, _address(http)))


@router.post(
    "/oidc",
    status_code=201,
    responses={
        401: {"description": "The ID token is not accepted"},
        403: {"description": "The account belongs to no person"},
    },
)
async def sign_in_oidc(request: OidcSignIn, http: Request) -> CreatedSession:
    """Sign in with an ID token of the configured issuer; needs no other token. Each ID token is accepted once."""
    service: OidcService = http.app.state.oidc
    return _remembered(http, await service.sign_in(request, _address(http)))


@router.get("", responses=_SERVICE)
async def list_sessions(http: Request, principal: ReaderDep, database: DatabaseDep) -> SessionList:
    """List the sender's own sessions that have not ended, newest first."""
    last_use: LastUse = http.app.state.last_use
    await last_use.flush()

    def read() -> SessionList:
        with database.read() as session:
            return sessions.sessions(session, principal)

    return await run_in_threadpool(read)


@router.get("/{session}", responses=_SERVICE)
def read_session(session: str, principal: ReaderDep, reading: SessionDep) -> Session:
    """Read one of the sender's own sessions."""
    return sessions.find(reading, session, principal)


@router.delete("", responses=_SERVICE)
def end_sessions(
    principal: SubmitterDep,
    database: DatabaseDep,
    current: Annotated[bool, Query(description="Also end the session of the request.")] = False,
) -> EndedSessions:
    """End the sender's own sessions: all others, or all of them."""
    person = sessions.person_of(principal)
    with database.write() as session:
        ended = sessions.end_all(session, person.id, but="" if current else principal.token_id)
        audit.about("person", person.name, ended=ended)
    return EndedSessions(ended=ended)


@router.delete("/{session}", responses=_SERVICE)
def end_session(session: str, principal: SubmitterDep, database: DatabaseDep) -> Session:
    """End one of the sender's own sessions: it is refused from the next request on. `current` signs out."""
    with database.write() as writing:
        ended = sessions.end(writing, session, principal)
        audit.about("session", ended.id)
    return ended
