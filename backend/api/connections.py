"""Limits of time and number for the connections of the server.

uvicorn closes a connection that is idle after an answer. It keeps a connection that has sent nothing, that sends a
request head without end, or that sends a body which no route reads. Once the process has no file descriptor left, it
refuses every client.
"""

from __future__ import annotations

import asyncio
import json
import resource
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from common.security_headers import BROWSER_HEADERS, NO_CONTENT_POLICY

HEAD_SECONDS = 15.0
"""Time limit of a request's head, counted from its first byte, and of the wait for a new connection's first byte."""
REST_SECONDS = 15.0
"""Time limit for receiving the remaining body of a request that has already been answered."""
HEAD_BYTES = 64 * 1024
SPARE_DESCRIPTORS = 256
"""File descriptors reserved for files, the broker and database connections; such a connection has three files open."""
_SWEEP_SECONDS = 1.0


def raise_descriptor_limit() -> None:
    """Raise the soft limit of open files to the hard limit; on many systems the soft limit is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def max_connections() -> int:
    """Return the number of connections that the process may have at once under its present limit of open files."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return max(limit - SPARE_DESCRIPTORS, limit // 2)


class LimitedConnection(HttpToolsProtocol):
    """A connection of uvicorn with limits: of time and size for a request's head, and of the number of connections.

    Attributes:
        waits_since: Time on the event loop's clock at which the server began to wait for the client; None while the
            client waits for the server.
    """

    waits_since: float | None = None
    _head_bytes = 0
    _in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.waits_since = self.loop.time()
        _Sweeper.of(self).watch()
        if len(self.connections) > max_connections() and not self._make_room():
            self.refuse(503, "too many connections; try again", {"Retry-After": "1"})

    def _make_room(self) -> bool:
        """Close the connection that has waited longest for its client; return whether there was one."""
        idle = [other for other in self.connections if isinstance(other, LimitedConnection) and other is not self]
        waiting = [other for other in idle if other.waits_since is not None and not other.transport.is_closing()]
        if not waiting:
            return False
        min(waiting, key=lambda other: other.waits_since or 0.0).transport.abort()
        return True

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes == len(data):
                self.waits_since = self.loop.time()  # the first byte of a head
        super().data_received(data)
        if self._in_head and self._head_bytes > HEAD_BYTES and not self.transport.is_closing():
            self.refuse(431, f"the head of a request has at most {HEAD_BYTES} bytes here")

    def on_headers_complete(self) -> None:
        self._in_head, self._head_bytes, self.waits_since = False, 0, None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head = True
        if self.cycle is not None and self.cycle.response_complete:
            self.waits_since = self.loop.time()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.waits_since = self.loop.time()

    def overdue(self, now: float) -> bool:
        """Return whether the client has exceeded its time for a head, or for the data that it sends after an answer."""
        patience = HEAD_SECONDS if self._in_head else REST_SECONDS
        return self.waits_since is not None and now - self.waits_since > patience

    def send_400_response(self, msg: str) -> None:
        """Answer input that is not HTTP; uvicorn calls this."""
        self.refuse(400, msg)

    def refuse(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        """Send an error without calling a route, and close the connection."""
        problem = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
        body = json.dumps(problem | {"errors": []}).encode()
        common = {"content-type": "application/problem+json", "content-length": str(len(body)), "connection": "close"}
        browser = {**BROWSER_HEADERS, "content-security-policy": NO_CONTENT_POLICY, "cache-control": "no-store"}
        lines = [f"{name}: {value}\r\n".encode() for name, value in (common | browser | (headers or {})).items()]
        self.transport.write(b"".join([STATUS_LINE[status], *lines, b"\r\n", body]))
        self.transport.close()


class _Sweeper:
    """Closes overdue connections once a second; one sweeper per server."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connections: set[Any]) -> None:
        self._loop = loop
        self._connections = connections
        self._running = False

    @classmethod
    def of(cls, connection: LimitedConnection) -> _Sweeper:
        state: Any = connection.server_state
        if not hasattr(state, "sweeper"):
            state.sweeper = cls(connection.loop, connection.connections)
        sweeper: _Sweeper = state.sweeper
        return sweeper

    def watch(self) -> None:
        if not self._running:
            self._running = True
            self._loop.call_later(_SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        now = self._loop.time()
        for connection in list(self._connections):
            if isinstance(connection, LimitedConnection) and connection.overdue(now):
                connection.transport.abort()
        self._running = False
        if self._connections:
            self.watch()
