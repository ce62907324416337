"""What every route does before anything else: who asks, for what, and how much of it is read.

In this order: the token (401, 403), the ids in the path (404), the query and the headers (422), and only then the
body, within its limits (413, 408, 422). FastAPI alone would read and parse a body first and ask for the token last.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from typing import Any
from urllib.parse import unquote_to_bytes

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.types import Message

from backend.api.body_limits import Limit
from backend.api.dependencies import admit, authorize
from backend.errors import ApiError, invalid, not_found
from common.input_bounds import ID_PATTERN, WORKER_ID_PATTERN, BoundsError, read_json
from core.protocol.public import ProblemField

Handler = Callable[[Request], Coroutine[Any, Any, Response]]

_SMALL_BODY = 64 * 1024
"""Is parsed where it is: to hand it to a thread takes longer."""
_CLOSE = {"Connection": "close"}

# A name may be older than the rule for names, so that only what no name can hold is refused.
_NAME = r"[^\0]{1,120}"
_IDS: dict[str, tuple[str, re.Pattern[str]]] = {
    "run_id": ("run", re.compile(ID_PATTERN)),
    "token_id": ("token", re.compile(ID_PATTERN)),
    "artifact_id": ("artifact", re.compile(r"^[0-9a-f]{16}$")),
    "worker_id": ("worker", re.compile(WORKER_ID_PATTERN)),
    "sha256": ("upload", re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")),
    "key": ("experiment", re.compile(_NAME, re.DOTALL)),
}
"""Of each parameter of a path: what it names, and what it looks like."""
_UNFIT = frozenset("\0\ufffd")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_JUDGED_HEADERS = ("idempotency-key", "last-event-id", "if-range", "range")

_client_left: ContextVar[threading.Event | None] = ContextVar("client_left", default=None)


class ClientLeftError(Exception):
    """The client has closed its connection, so that nobody reads the answer."""


def refuse_abandoned() -> None:
    """To be called now and then by work that takes long. Raises ClientLeftError where nobody waits for it any more."""
    left = _client_left.get()
    if left is not None and left.is_set():
        raise ClientLeftError


class BoundedRequest(Request):
    """A request whose body has been read within its limits.

    Attributes:
        data: its JSON as plain data; None where it has no body, or one that is no JSON.
    """

    data: Any = None

    async def json(self) -> Any:
        return self.data


class BoundedRoute(APIRoute):
    """Every route of the interface. Set as ``route_class`` of each router."""

    def get_route_handler(self) -> Handler:
        return self.bounded(super().get_route_handler())

    def bounded(self, inner: Handler) -> Handler:
        """The handler behind the bounds."""
        needed = _scopes(self.dependant)
        takes_body = self.body_field is not None or "requestBody" in (self.openapi_extra or {})
        checks = [(name, *_IDS[name]) for name in self.param_convertors]
        if "key" in self.param_convertors and self.path_format.startswith("/workers/"):
            checks = [("key", "worker", _IDS["key"][1])]

        async def handle(request: Request) -> Response:
            if needed:
                await admit(needed, request)
            if request.scope["path"].endswith("\n"):  # the router's patterns end with $, which passes over it
                raise ApiError(404, "there is nothing at this address")
            for name, what, pattern in checks:
                given = request.path_params[name]
                if not pattern.fullmatch(given):
                    raise not_found(what, given)
            _judge_texts(request, checks)
            if not takes_body:
                return await inner(request)
            limit: Limit = request.app.state.limits[self.path]
            try:
                read = await _read(request, limit)
                return await (_until_left(read, inner) if limit.long else inner(read))
            except ClientDisconnect:  # in the midst of its body
                return Response(status_code=400)  # nobody reads it

        return handle


def _scopes(dependant: Dependant) -> list[str]:
    """What the route asks of a token, its own function and its dependencies together."""
    found = [scope for inner in dependant.dependencies for scope in _scopes(inner)]
    if dependant.call is authorize:
        found += dependant.own_oauth_scopes or dependant.parent_oauth_scopes or []
    return list(dict.fromkeys(found))


def _judge_texts(request: Request, checks: list[Any]) -> None:
    """Refuse bytes that are no text, and controls: the decoders below would replace them without a word."""
    raw_path: bytes = request.scope.get("raw_path") or b""
    if checks and b"%" in raw_path and not _is_text(unquote_to_bytes(raw_path)):
        raise not_found(checks[0][1], request.path_params[checks[0][0]])
    query: bytes = request.scope["query_string"]
    if query and (b"%" in query or not query.isascii()):
        plain = unquote_to_bytes(query.replace(b"+", b" "))
        if b"\0" in plain or not _is_text(plain):
            raise _unfit(*(name for name, value in request.query_params.multi_items() if _UNFIT & {*name, *value}))
    for name in _JUDGED_HEADERS:
        value = request.headers.get(name)
        if value is not None and _CONTROL.search(value):
            raise _unfit(name)


def _unfit(*names: str) -> ApiError:
    message = "contains a character that is not text"
    return invalid(f"{names[0]}: {message}", *(ProblemField(path=name, message=message) for name in names))


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


async def _read(request: Request, limit: Limit) -> BoundedRequest:
    """The request with its body read and judged; one that is streamed is only bounded.

    Raises ApiError 413 above the limit, before anything is read where the length is announced; 408 for a body that does
    not come; 422 for JSON beyond its bounds.
    """
    patience: float = request.app.state.settings.body_seconds
    detail = f"a request body has at most {limit.bytes} bytes here"
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and (len(announced) > 18 or int(announced) > limit.bytes):
        raise ApiError(413, detail)
    began, received, receive = time.monotonic(), 0, request.receive

    async def bounded() -> Message:
        nonlocal received
        try:
            async with asyncio.timeout(began + limit.seconds(received, patience) - time.monotonic()):
                message = await receive()
        except TimeoutError:
            raise ApiError(408, "the body has not come in time", headers=_CLOSE) from None
        received += len(message.get("body", b""))
        if received > limit.bytes:
            raise ApiError(413, detail, headers=_CLOSE)
        return message

    found = BoundedRequest(request.scope, bounded, request._send)
    if limit.json is None:
        return found
    raw = await found.body()
    if not raw:
        return found
    try:
        if limit.typed:
            # Every value but the first comes behind a comma or opens a list or an object.
            if raw.count(b",") > limit.json.values:
                raise BoundsError("", f"the body has more than {limit.json.values} values")
        elif len(raw) <= _SMALL_BODY:
            found.data = read_json(raw, limit.json)
        else:
            found.data = await run_in_threadpool(read_json, raw, limit.json)
    except BoundsError as error:
        raise invalid(str(error), ProblemField(path=error.path, message=error.message)) from None
    return found


async def _until_left(request: BoundedRequest, inner: Callable[[Request], Awaitable[Response]]) -> Response:
    """Answer, and let ``refuse_abandoned`` know meanwhile whether the client still waits."""
    left = threading.Event()
    token = _client_left.set(left)

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        left.set()

    watching = asyncio.create_task(watch())
    try:
        return await inner(request)
    except ClientLeftError:
        return Response(status_code=400)  # nobody reads it
    finally:
        watching.cancel()
        _client_left.reset(token)
