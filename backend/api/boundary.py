"""The checks that every route makes first: the token, the path, the query, the headers, and the size of the body.

They run in this order: the token (401, 403), the ids in the path (404), the query and the headers (422), the right to
change the object in the path (404, 403), and only then the body, within its limits (413, 408, 422). FastAPI alone would
read and parse the body first and check the token last.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar
from urllib.parse import unquote_to_bytes

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.types import Message

from backend import audit
from backend.api.body_limits import Limit
from backend.api.dependencies import admit, authorize, principal_of, short_query
from backend.api.middleware import REQUEST_ID
from backend.audit.changes import begin, store_with_next_transaction
from backend.errors import ApiError, invalid, not_found
from backend.people import rights
from backend.people.targets import check_target, project_exists
from common.input_bounds import ID_PATTERN, WORKER_ID_PATTERN, BoundsError, read_json
from core.protocol.people import PERSON_NAME, PROJECT_NAME
from core.protocol.public import ProblemField
from core.protocol.sessions import SESSION_KEY

P = ParamSpec("P")
R = TypeVar("R")
Handler = Callable[[Request], Coroutine[Any, Any, Response]]

PROJECT_HEADER = "X-DKD-Project"
"""Header that limits what a request sees to one project."""
SMALL_BODY = 64 * 1024
"""Bytes of a body that is parsed in about a millisecond."""
_CLOSE = {"Connection": "close"}

# Stored names may be older than the rule for names, so only characters that no name can contain are refused.
_NAME = r"[^\0]{1,120}"
_IDS: dict[str, tuple[str, re.Pattern[str]]] = {
    "run_id": ("run", re.compile(ID_PATTERN)),
    "token_id": ("token", re.compile(ID_PATTERN)),
    "artifact_id": ("artifact", re.compile(r"^[0-9a-f]{16}$")),
    "item": ("image", re.compile(r"^[0-9]{1,9}$")),
    "worker_id": ("worker", re.compile(WORKER_ID_PATTERN)),
    "sha256": ("upload", re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")),
    "key": ("experiment", re.compile(_NAME, re.DOTALL)),
    "name": ("sweep", re.compile(_NAME, re.DOTALL)),
    "layout": ("layout", re.compile(_NAME, re.DOTALL)),
    "project": ("project", re.compile(PROJECT_NAME)),
    "person": ("person", re.compile(PERSON_NAME)),
    "session": ("session", re.compile(SESSION_KEY)),
}
"""For each path parameter: the kind of object that it names, and the pattern of its values."""
_INVALID_CHARACTERS = frozenset("\0\ufffd")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CHECKED_HEADERS = ("idempotency-key", "last-event-id", "if-range", "range")

_client_gone: ContextVar[threading.Event | None] = ContextVar("client_gone", default=None)


class ClientGoneError(Exception):
    """The client has closed its connection and cannot receive the response."""


def check_client_waits() -> None:
    """Stop long work whose client has gone. Long work calls this from time to time.

    Raises:
        ClientGoneError: The client has closed its connection.
    """
    disconnected = _client_gone.get()
    if disconnected is not None and disconnected.is_set():
        raise ClientGoneError


async def parse(small: bool, parser: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a parser of a body: on the event loop if the body is small, since a thread would take longer to get it."""
    return parser(*args, **kwargs) if small else await run_in_threadpool(parser, *args, **kwargs)


class BoundedRequest(Request):
    """A request whose body has been read within its limits.

    Attributes:
        data: The JSON body as plain data; None if there is no body, or it is not JSON.
    """

    data: Any = None

    async def json(self) -> Any:
        return self.data


class BoundedRoute(APIRoute):
    """A route with the checks of this module. Each router sets it as its ``route_class``."""

    def get_route_handler(self) -> Handler:
        return self.bounded(super().get_route_handler())

    def bounded(self, inner: Handler) -> Handler:
        """Return a handler that makes the checks and then calls ``inner``."""
        needed = _scopes(self.dependant)
        takes_body = self.body_field is not None or "requestBody" in (self.openapi_extra or {})
        checks = [(name, *_IDS[name]) for name in self.param_convertors]
        if "key" in self.param_convertors and self.path_format.startswith("/workers/"):
            checks = [("key", "worker", _IDS["key"][1])]
        action = self._audited_action()

        async def handle(request: Request) -> Response:
            if action is None:
                begin(None)
                return await checked(request)
            change = audit.Change(action, address=_address(request), request_id=request.scope.get(REQUEST_ID, ""))
            for name, kind, pattern in checks[:1]:
                value = request.path_params[name]
                change.kind, change.object = kind, value if pattern.fullmatch(value) else ""
            begin(change)
            try:
                response = await checked(request)
            except ApiError as error:
                if error.status in (401, 403):
                    _add_sender(change, request)
                    begin(None)
                    await request.app.state.refusals.record(change, error.status)
                raise
            if not change.written and response.status_code < 400:  # nothing had to be stored, or not in the database
                await request.app.state.database.write_async(lambda connection: None)
            return response

        async def checked(request: Request) -> Response:
            principal = await admit(needed, request) if needed else None
            _add_sender(audit.current(), request)
            narrowed = request.headers.get(PROJECT_HEADER)
            rights.enter(principal, narrowed)
            if narrowed is not None and principal is not None:
                await _refuse_unknown_project(request, narrowed)
            if request.scope["path"].endswith("\n"):  # the router's patterns end with $, which matches before it
                raise ApiError(404, "there is nothing at this address")
            for name, kind, pattern in checks:
                value = request.path_params[name]
                if not pattern.fullmatch(value):
                    raise not_found(kind, value)
            _check_texts(request, checks)
            if action is not None and principal is not None and not principal.sees_everything:
                for name, kind, _ in checks[:1]:
                    database = request.app.state.database
                    await short_query(database, check_target, database, action, kind, request.path_params[name])
            store_with_next_transaction()
            if not takes_body:
                return await inner(request)
            limit: Limit = request.app.state.limits[self.path]
            try:
                bounded = await _read(request, limit)
                return await (_watch_client(bounded, inner) if limit.long else inner(bounded))
            except ClientDisconnect:  # before the whole body arrived
                return Response(status_code=400)  # the client has disconnected and does not receive it

        return handle

    def _audited_action(self) -> str | None:
        """Return the name of the change that the route makes; None if it makes none, or belongs to the workers."""
        if (self.methods or set()) <= {"GET", "HEAD"} or "/preview" in self.path or "/worker/" in self.path:
            return None
        subject = str(self.tags[0])
        return f"{subject}.{self.name.removesuffix('_' + subject.removesuffix('s'))}"


async def _refuse_unknown_project(request: Request, name: str) -> None:
    """Refuse a request that is limited to a project which does not exist.

    Raises:
        ApiError: 404 in this case.
    """
    database = request.app.state.database
    if not re.fullmatch(PROJECT_NAME, name) or not await short_query(database, project_exists, database, name):
        raise not_found("project", name)


def _add_sender(change: audit.Change | None, request: Request) -> None:
    """Set the token of the record of a change to that of the request, if the token is valid."""
    principal = principal_of(request)
    if change is not None and principal is not None:
        change.token_id, change.token = principal.token_id, principal.name
        change.person = principal.person.name if principal.person else ""


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _scopes(dependant: Dependant) -> list[str]:
    """Return the scopes that a token needs for the route, those of its dependencies included."""
    scopes = [scope for inner in dependant.dependencies for scope in _scopes(inner)]
    if dependant.call is authorize:
        scopes += dependant.own_oauth_scopes or dependant.parent_oauth_scopes or []
    return list(dict.fromkeys(scopes))


def _check_texts(request: Request, checks: list[Any]) -> None:
    """Refuse invalid UTF-8 and control characters, which the decoders of the framework would replace silently."""
    raw_path: bytes = request.scope.get("raw_path") or b""
    if checks and b"%" in raw_path and not _is_text(unquote_to_bytes(raw_path)):
        raise not_found(checks[0][1], request.path_params[checks[0][0]])
    query: bytes = request.scope["query_string"]
    if query and (b"%" in query or not query.isascii()):
        decoded_query = unquote_to_bytes(query.replace(b"+", b" "))
        if b"\0" in decoded_query or not _is_text(decoded_query):
            parameters = request.query_params.multi_items()
            raise _not_text(*(name for name, value in parameters if _INVALID_CHARACTERS & {*name, *value}))
    for name in _CHECKED_HEADERS:
        value = request.headers.get(name)
        if value is not None and _CONTROL.search(value):
            raise _not_text(name)


def _not_text(*names: str) -> ApiError:
    message = "contains a character that is not text"
    return invalid(f"{names[0]}: {message}", *(ProblemField(path=name, message=message) for name in names))


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


async def _read(request: Request, limit: Limit) -> BoundedRequest:
    """Return the request with its body read and checked; a streamed body is not read, only limited.

    Raises:
        ApiError: 413 above the limit, before reading if Content-Length announces it; 408 if the body does not arrive in
            time; 422 if the JSON exceeds its bounds.
    """
    body_seconds: float = request.app.state.settings.body_seconds
    detail = f"a request body has at most {limit.bytes} bytes here"
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and (len(announced) > 18 or int(announced) > limit.bytes):
        raise ApiError(413, detail)
    began, received, receive = time.monotonic(), 0, request.receive

    async def bounded() -> Message:
        nonlocal received
        try:
            async with asyncio.timeout(began + limit.seconds(received, body_seconds) - time.monotonic()):
                message = await receive()
        except TimeoutError:
            raise ApiError(408, "the body did not arrive in time", headers=_CLOSE) from None
        received += len(message.get("body", b""))
        if received > limit.bytes:
            raise ApiError(413, detail, headers=_CLOSE)
        return message

    result = BoundedRequest(request.scope, bounded, request._send)
    if limit.json is None:
        return result
    raw = await result.body()
    if not raw:
        return result
    try:
        if limit.typed:
            # Every value but the first follows a comma or opens a list or an object.
            if raw.count(b",") > limit.json.values:
                raise BoundsError("", f"the body has more than {limit.json.values} values")
        else:
            result.data = await parse(len(raw) <= SMALL_BODY, read_json, raw, limit.json)
    except BoundsError as error:
        raise invalid(str(error), ProblemField(path=error.path, message=error.message)) from None
    return result


async def _watch_client(request: BoundedRequest, inner: Callable[[Request], Awaitable[Response]]) -> Response:
    """Answer the request; ``check_client_waits`` raises in it once the client has closed its connection."""
    gone = threading.Event()
    token = _client_gone.set(gone)

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone.set()

    watching = asyncio.create_task(watch())
    try:
        return await inner(request)
    except ClientGoneError:
        return Response(status_code=400)  # the client has disconnected and does not receive it
    finally:
        watching.cancel()
        _client_gone.reset(token)
