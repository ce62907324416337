"""FastAPI dependencies of the routes: the database, the settings, the principal behind the token."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Annotated, ParamSpec, TypeVar

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from backend.access.last_use import LastUse
from backend.access.middleware import ACCESS, RequestAccess, look_up
from backend.access.rate_limiter import RateLimiter
from backend.api.single_flight import SingleFlight
from backend.artifacts.run_files import Store
from backend.db import Database
from backend.errors import ApiError
from backend.queue.nudge_debouncer import NudgeDebouncer
from backend.settings import Settings
from backend.tokens import Principal, digest

P = ParamSpec("P")
R = TypeVar("R")

bearer = HTTPBearer(auto_error=False, description="A token made by `dkd token create`, or the admin token.")


# Asynchronous although they never wait: FastAPI hands each synchronous dependency to a thread, which costs more than a
# query.
async def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def _database(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


async def _nudges(request: Request) -> NudgeDebouncer:
    nudges: NudgeDebouncer = request.app.state.nudges
    return nudges


async def _flights(request: Request) -> SingleFlight:
    flights: SingleFlight = request.app.state.flights
    return flights


async def _store(request: Request) -> Store:
    store: Store = request.app.state.store
    return store


StoreDep = Annotated[Store, Depends(_store)]
SettingsDep = Annotated[Settings, Depends(_settings)]
# A route that writes opens ``with database.write() as session`` itself: a transaction that began in a dependency would
# hold SQLite's one writer while the route waits for a thread, and the threads would all be waiting for the writer.
DatabaseDep = Annotated[Database, Depends(_database)]
NudgesDep = Annotated[NudgeDebouncer, Depends(_nudges)]
FlightsDep = Annotated[SingleFlight, Depends(_flights)]


async def short_query(database: Database, query: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a short query: on SQLite on the event loop, over a network in a thread.

    Reading a row of a local file takes less time than handing the query to a thread; over a network the loop serves
    other requests meanwhile.
    """
    return query(*args, **kwargs) if database.is_sqlite else await run_in_threadpool(query, *args, **kwargs)


async def _reading(database: DatabaseDep) -> AsyncIterator[Session]:
    session = database.session()  # takes no connection before its first query
    try:
        yield session
    finally:
        await short_query(database, session.close)


SessionDep = Annotated[Session, Depends(_reading, scope="function")]
"""A session for reading, closed before the answer is sent."""


def principal_of(request: Request) -> Principal | None:
    """Return the principal that ``admit`` has found; None without a valid token."""
    access: RequestAccess = request.scope[ACCESS]
    return access.principal


async def admit(needed: Sequence[str], request: Request) -> Principal:
    """Return the principal that sent the request.

    The token is looked up once per request; the route's first check does it, before the body is read.

    Raises:
        ApiError: 401 without a valid token; 403 if the token lacks one of the scopes; 429 if there are too many
            requests with this token, or without a valid one from this address.
    """
    access: RequestAccess = request.scope[ACCESS]
    principal = access.principal
    if principal is None:
        principal = access.principal = await _identified(request, access)
    missing = [scope for scope in needed if scope not in principal.scopes]
    if missing == ["admin"] and principal.manages:
        raise ApiError(403, "the person of this token is no admin of the lab")
    if missing:
        raise ApiError(403, f"this token does not have the scope {', '.join(missing)}")
    return principal


async def _identified(request: Request, access: RequestAccess) -> Principal:
    state = request.app.state
    limiter: RateLimiter = state.rate_limiter
    last_use: LastUse = state.last_use
    credentials = await bearer(request)
    if credentials is None:
        await limiter.count_refused(access.client, None)
        raise ApiError(401, "send a token as 'Authorization: Bearer …'", headers={"WWW-Authenticate": "Bearer"})
    token = credentials.credentials
    sha256 = digest(token)
    limiter.check_unknown(access.client, sha256)
    # The database is not a FastAPI dependency here: each of them costs every request some time.
    principal = await look_up(state.database, token)
    if principal is None:
        await limiter.count_refused(access.client, sha256)
        header = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
        raise ApiError(401, "this token is unknown, was revoked, or has expired", headers=header)
    await limiter.count_token(principal.token_id, sha256)
    last_use.note(principal.token_id)
    access.token = token
    return principal


# ``bearer`` is a dependency so that OpenAPI lists it; ``admit`` reads the header.
async def authorize(
    needed: SecurityScopes,
    request: Request,
    _: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
) -> Principal:
    """Return the principal: ``admit`` as a dependency, for routes that use the principal."""
    return await admit(needed.scopes, request)


ReaderDep = Annotated[Principal, Security(authorize, scopes=["read"])]
SubmitterDep = Annotated[Principal, Security(authorize, scopes=["submit"])]
AdminDep = Annotated[Principal, Security(authorize, scopes=["admin"])]

# For ``APIRouter(dependencies=…)``: the scope is required, and the route does not use the principal.
reads = Security(authorize, scopes=["read"])
submits = Security(authorize, scopes=["submit"])
administers = Security(authorize, scopes=["admin"])
works = Security(authorize, scopes=["worker"])
