"""ASGI middleware of every request: the host check, security headers, the access log."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable

import anyio
import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.db import new_id
from backend.errors import problem_response, shown_path
from common.origins import address, host_allowed, origin_allowed
from common.security_headers import BROWSER_HEADERS, NO_CONTENT_POLICY, script_hashes

_log = structlog.get_logger(__name__)

REQUEST_ID = "dkd.request_id"
"""Key of the request's id in its scope."""


def _header_value(scope: Scope, name: bytes) -> str:
    """Return the first header of that name; empty if absent."""
    return next((value.decode("latin-1") for header, value in scope["headers"] if header == name), "")


class HostCheck:
    """Refuses requests addressed to another host name, or sent by a web page of another origin.

    A page on the internet can point its own host name at 127.0.0.1 and then talk to this port as its own origin (DNS
    rebinding); it cannot change the Host header that the browser then sends. A page that another program serves on this
    machine has another port, so its origin is compared with the whole Host. Starlette's TrustedHostMiddleware checks
    the Host only.

    Args:
        app: The application behind this middleware.
        allowed: Host names that a request may be addressed to; ``*`` for any.
        origins: Other origins whose pages may call this API, such as ``https://lab.example`` behind a proxy with TLS.
    """

    def __init__(self, app: ASGIApp, allowed: Iterable[str], origins: Iterable[str] = ()) -> None:
        self.app = app
        self._allowed = frozenset(name.lower() for name in allowed)
        self._origins = tuple(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            authority, origin = _header_value(scope, b"host"), _header_value(scope, b"origin")
            target = address(authority, scope["scheme"])
            host = target.host if target else ""
            if "*" not in self._allowed and not host_allowed(host, self._allowed):
                await problem_response(400, f"this backend does not answer to the name {host!r}")(scope, receive, send)
                return
            if not origin_allowed(origin, authority, scope["scheme"], self._origins):
                await problem_response(403, "web pages of other origins may not call this API")(scope, receive, send)
                return
        await self.app(scope, receive, send)


class SecurityHeaders:
    """Adds headers that forbid browsers to sniff types, frame answers, run scripts in them or store them on disk.

    The only pages of the API are ``/docs``, which may run the scripts that they include. Swagger UI writes styles into
    its elements, so their policy allows inline styles.
    """

    _ALWAYS = tuple((name.encode(), value.encode()) for name, value in BROWSER_HEADERS.items())
    _DOCS_POLICY = (
        "default-src 'self'; script-src 'self'{scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "object-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
    )

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        if path in ("/docs", "/docs/oauth2-redirect"):
            await self._docs_page(scope, receive, send)
            return
        added = [*self._ALWAYS, (b"content-security-policy", NO_CONTENT_POLICY.encode())]
        if path.startswith("/api/") or path == "/metrics":
            added.append((b"cache-control", b"no-store"))

        async def with_headers(message: Message) -> None:
            await send(_with_headers(message, added))

        await self.app(scope, receive, with_headers)

    async def _docs_page(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with a page, held back until the hashes of its scripts are known."""
        start: Message | None = None
        body = b""

        async def hold(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                start = message
                return
            body += message.get("body", b"")
            if not message.get("more_body") and start is not None:
                policy = self._DOCS_POLICY.format(scripts=script_hashes(body)).encode()
                await send(_with_headers(start, [*self._ALWAYS, (b"content-security-policy", policy)]))
                await send({"type": "http.response.body", "body": body})

        await self.app(scope, receive, hold)


def _with_headers(message: Message, added: Collection[tuple[bytes, bytes]]) -> Message:
    """Return the start of a response with these headers, in place of those of the same names."""
    if message["type"] != "http.response.start":
        return message
    names = {name for name, _ in added}
    return {**message, "headers": [*(item for item in message["headers"] if item[0].lower() not in names), *added]}


class AccessLog:
    """Writes one log line per request, at level debug if workers or probes repeat the request every few seconds.

    Each request gets an id, which is in the line, in the header ``X-Request-ID`` of the answer and in the audit log. A
    client that closes a stream ends its request; this is not logged as an error.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 500
        request_id = scope[REQUEST_ID] = new_id()

        async def record_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self.app(scope, receive, record_status)
        except BaseExceptionGroup as group:
            # A client that closes a stream before its end breaks the pipe that the framework writes to.
            if group.split(anyio.BrokenResourceError)[1] is not None:
                raise
        finally:
            quiet = status < 400 and (scope["method"] == "GET" or scope["path"].startswith("/api/v1/worker/"))
            write = _log.debug if quiet else _log.info
            milliseconds = round(1000 * (time.perf_counter() - began), 1)
            write(
                "request",
                method=scope["method"],
                path=shown_path(scope),
                status=status,
                ms=milliseconds,
                id=request_id,
            )
