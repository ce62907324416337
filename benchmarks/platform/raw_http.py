"""The HTTP client of the benchmark: one keep-alive connection, bodies encoded in advance, one write per request.

The standard library's client takes a tenth of the time of a short request for itself, which would be counted as the
server's.
"""

from __future__ import annotations

import json
import select
import socket
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

import httptools

_TIMEOUT_SECONDS = 120
_READ_BYTES = 1 << 16

# A server that sends an answer in two small writes without TCP_NODELAY, as uvicorn with several processes does, waits
# between them for the acknowledgement of this side, which the kernel delays by 40 ms. The benchmark would then measure
# the timer of the kernel. The option is set before each answer, since the kernel resets it; Linux only.
_QUICKACK = getattr(socket, "TCP_QUICKACK", None)


@dataclass(frozen=True)
class Call:
    """A request with its encoded body, so that the time of encoding is not measured."""

    method: str
    path: str
    body: bytes | None = None

    @classmethod
    def get(cls, path: str, **query: Any) -> Call:
        return cls("GET", f"{path}?{urlencode(query, doseq=True)}" if query else path)

    @classmethod
    def post(cls, path: str, content: Any) -> Call:
        return cls("POST", path, json.dumps(content, separators=(",", ":")).encode())


class ErrorStatus(Exception):  # noqa: N818 (named after the answer)
    """The server answered with a status other than 2xx."""


class Connection:
    """A keep-alive connection to one server, for one thread.

    It is opened with the first request, and again if the server has closed it.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 80)
        head = [f"Host: {parts.netloc}", "Content-Type: application/json"]
        if token:
            head.append(f"Authorization: Bearer {token}")
        self._head = "\r\n".join(head)
        self._socket: socket.socket | None = None

    def send(self, call: Call) -> bytes:
        """Send a request and return the body of the answer.

        Raises:
            ErrorStatus: The status is not 2xx.
            OSError: The connection failed.
        """
        response = _Response()
        try:
            if self._socket is not None and _has_ended(self._socket):  # after some seconds without a request
                self.close()
            if self._socket is None:
                self._socket = socket.create_connection(self._address, _TIMEOUT_SECONDS)
            body = call.body or b""
            head = f"{call.method} {call.path} HTTP/1.1\r\n{self._head}\r\nContent-Length: {len(body)}\r\n\r\n"
            self._socket.sendall(head.encode() + body)
            if _QUICKACK is not None:
                self._socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
            while not response.complete:
                response.feed(self._socket.recv(_READ_BYTES))
        finally:
            if not response.keep_alive:
                self.close()
        if response.status >= 300:
            raise ErrorStatus(f"{response.status} to {call.method} {call.path}: {response.body[:500]!r}")
        return response.body

    def send_json(self, call: Call) -> Any:
        """Send a request and return the decoded answer."""
        return json.loads(self.send(call))

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _has_ended(connection: socket.socket) -> bool:
    """Return whether the server has closed a connection on which no answer is awaited."""
    poller = select.poll()
    poller.register(connection, select.POLLIN)
    return bool(poller.poll(0))


class _Response:
    """A response as it arrives. The parser calls the methods that begin with ``on_``."""

    def __init__(self) -> None:
        self.complete = self.keep_alive = False
        self._parts: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        if not data:
            raise ConnectionResetError("the server closed the connection before the end of its answer")
        self._parser.feed_data(data)

    def on_body(self, part: bytes) -> None:
        self._parts.append(part)

    def on_message_complete(self) -> None:
        # Read here: after the message the parser always returns False.
        self.complete, self.keep_alive = True, self._parser.should_keep_alive()

    @property
    def status(self) -> int:
        return int(self._parser.get_status_code())

    @property
    def body(self) -> bytes:
        return b"".join(self._parts)
