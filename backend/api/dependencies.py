"""What a route asks for: the database, the settings, the right to do it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Annotated, ParamSpec, TypeVar

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from backend.artifacts.run_files import Store
from backend.db import Database
from backend.errors import ApiError
from backend.queue.nudge_debouncer import Waker
from backend.settings import Settings
from backend.tokens import Principal, identify

P = ParamSpec("P")
R = TypeVar("R")

_PRINCIPAL = "dkd.principal"
"""Where a request's scope keeps it."""

bearer = HTTPBearer(auto_error=False, description="Of `dkd token create`, or the admin's own.")


# Asynchronous, though they wait for nothing: others are each handed to a thread, which costs more than a query.
async def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def _database(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


async def _waker(request: Request) -> Waker:
    waker: Waker = request.app.state.waker
    return waker


async def _store(request: Request) -> Store:
    store: Store = request.app.state.store
    return store


StoreDep = Annotated[Store, Depends(_store)]
SettingsDep = Annotated[Settings, Depends(_settings)]
# A route that writes opens ``with database.write() as session`` itself: a transaction that began in a dependency would
# hold SQLite's one writer while the route waits for a thread, and the threads would all be waiting for the writer.
DatabaseDep = Annotated[Database, Depends(_database)]
WakerDep = Annotated[Waker, Depends(_waker)]


async def _at_once(database: Database, small: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Ask the database something small: on SQLite here and now, since a row of a local file takes less than handing the
    question to a thread; over a network in a thread, since nobody else is served meanwhile."""
    return small(*args, **kwargs) if database.is_sqlite else await run_in_threadpool(small, *args, **kwargs)


async def _reading(database: DatabaseDep) -> AsyncIterator[Session]:
    session = database.session()  # which asks nothing yet
    try:
        yield session
    finally:
        await _at_once(database, session.close)


SessionDep = Annotated[Session, Depends(_reading, scope="function")]
"""A session for reading, closed before the answer is sent."""


async def admit(needed: Sequence[str], request: Request) -> Principal:
    """Who sent the request. Raises ApiError 401 without a valid token, 403 where its scopes do not reach.

    The token is looked up once a request, by the first who asks: the route's own bounds, before they read a body.
    """
    principal: Principal | None = request.scope.get(_PRINCIPAL)
    if principal is None:
        principal = request.scope[_PRINCIPAL] = await _identified(request)
    missing = [scope for scope in needed if scope not in principal.scopes]
    if missing:
        raise ApiError(403, f"this token does not have the scope {', '.join(missing)}")
    return principal


async def _identified(request: Request) -> Principal:
    credentials = await bearer(request)
    if credentials is None:
        raise ApiError(401, "send a token as 'Authorization: Bearer …'", headers={"WWW-Authenticate": "Bearer"})
    database = await _database(request)  # not asked for as a dependency: each costs every request its share
    principal = await _at_once(database, identify, database, credentials.credentials)
    if principal is None:
        header = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
        raise ApiError(401, "this token is not known here, was revoked, or has expired", headers=header)
    return principal


# ``bearer`` is asked for so that the description of the interface names it; ``admit`` reads the header.
async def authorize(
    needed: SecurityScopes,
    request: Request,
    _: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
) -> Principal:
    """``admit`` as a dependency, for the routes that need to know who it is."""
    return await admit(needed.scopes, request)


ReaderDep = Annotated[Principal, Security(authorize, scopes=["read"])]
SubmitterDep = Annotated[Principal, Security(authorize, scopes=["submit"])]
AdminDep = Annotated[Principal, Security(authorize, scopes=["admin"])]
WorkerDep = Annotated[Principal, Security(authorize, scopes=["worker"])]

# For ``APIRouter(dependencies=…)``, where the route does not need to know who it is.
reads = Security(authorize, scopes=["read"])
submits = Security(authorize, scopes=["submit"])
administers = Security(authorize, scopes=["admin"])
works = Security(authorize, scopes=["worker"])
