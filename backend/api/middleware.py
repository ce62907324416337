"""What every request passes: which host it is addressed to, a line in the log."""

from __future__ import annotations

import time
from collections.abc import Iterable

import anyio
import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.errors import problem_response, shown_path
from common.origins import address, host_allowed, origin_allowed

_log = structlog.get_logger(__name__)


def _first(scope: Scope, wanted: bytes) -> str:
    """The header of that name, the first where there are several; empty where there is none."""
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == wanted), "")


class HostCheck:
    """Refuses requests addressed to another name, or sent by a web page of another origin.

    A page on the internet can point a name of its own at 127.0.0.1 and then talk to this port as its own origin; it
    cannot change the Host header that the browser sends with that. A page that another program serves on this machine
    has another port, so its origin is compared with the Host as a whole.

    Args:
        allowed: names that a request may be addressed to; ``*`` for any.
        origins: of pages that may call beside this server's own, as ``https://lab.example`` behind a proxy with TLS.
    """

    def __init__(self, app: ASGIApp, allowed: Iterable[str], origins: Iterable[str] = ()) -> None:
        self.app = app
        self._allowed = frozenset(name.lower() for name in allowed)
        self._origins = tuple(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            authority, page = _first(scope, b"host"), _first(scope, b"origin")
            found = address(authority, scope["scheme"])
            host = found.host if found else ""
            if "*" not in self._allowed and not host_allowed(host, self._allowed):
                await problem_response(400, f"this backend does not answer to the name {host!r}")(scope, receive, send)
                return
            if not origin_allowed(page, authority, scope["scheme"], self._origins):
                await problem_response(403, "web pages of other origins may not call this API")(scope, receive, send)
                return
        await self.app(scope, receive, send)


class SecurityHeaders:
    """Tells browsers to make of an answer no more than it is: no page, no frame, no other type, no copy on the disk.

    The pages of the interface (``/docs``) are the only ones there are, and run the script that they bring.
    """

    _ALWAYS = (
        (b"x-content-type-options", b"nosniff"),
        (b"x-frame-options", b"DENY"),
        (b"referrer-policy", b"no-referrer"),
        (b"cross-origin-resource-policy", b"same-origin"),
    )
    _NOTHING = b"default-src 'none'; frame-ancestors 'none'; sandbox"
    _PAGES = (
        b"default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
        b"img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
    )

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        policy = self._PAGES if path == "/docs" or path.startswith("/docs/") else self._NOTHING
        own = [*self._ALWAYS, (b"content-security-policy", policy)]
        if path.startswith("/api/"):
            own.append((b"cache-control", b"no-store"))

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(item for item in own if item[0] not in given)]
            await send(message)

        await self.app(scope, receive, with_headers)


class AccessLog:
    """One line a request; what workers and probes repeat every few seconds only at level debug.

    A stream that its reader has left is a request that has ended, not an error.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except BaseExceptionGroup as group:
            # Whoever leaves a stream before its end closes the pipe that the framework writes into.
            if group.split(anyio.BrokenResourceError)[1] is not None:
                raise
        finally:
            quiet = status < 400 and (scope["method"] == "GET" or scope["path"].startswith("/api/v1/worker/"))
            write = _log.debug if quiet else _log.info
            took = round(1000 * (time.perf_counter() - began), 1)
            write("request", method=scope["method"], path=shown_path(scope), status=status, ms=took)
