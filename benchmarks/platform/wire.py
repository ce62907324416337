"""One HTTP client for both servers: a connection kept open, bodies made beforehand, a request in one write.

Not the standard library's: what that does for itself with each request takes a tenth of a short one, and would be
counted as the server's.
"""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

import httptools

_SECONDS = 120
_AT_ONCE = 1 << 16

# A server that answers in two small writes without TCP_NODELAY, as uvicorn with several processes does, waits between
# them for this side's acknowledgement, which the kernel puts off by 40 ms. That would be a measure of the kernel's
# timer. Asked for before each answer, as the kernel forgets it with each request; Linux only.
_QUICKACK = getattr(socket, "TCP_QUICKACK", None)


@dataclass(frozen=True)
class Call:
    """A request, its body encoded already: what is measured is the server, not our JSON."""

    method: str
    path: str
    body: bytes | None = None

    @classmethod
    def get(cls, path: str, **query: Any) -> Call:
        return cls("GET", f"{path}?{urlencode(query, doseq=True)}" if query else path)

    @classmethod
    def post(cls, path: str, content: Any) -> Call:
        return cls("POST", path, json.dumps(content, separators=(",", ":")).encode())


class Refused(Exception):  # noqa: N818 (named after what the server did)
    """A status other than 2xx."""


class Connection:
    """Keep-alive to one server; for one thread. Opened with the first call, and anew where the server closed it."""

    def __init__(self, url: str, token: str | None = None) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 80)
        head = [f"Host: {parts.netloc}", "Content-Type: application/json"]
        if token:
            head.append(f"Authorization: Bearer {token}")
        self._head = "\r\n".join(head)
        self._socket: socket.socket | None = None

    def send(self, call: Call) -> bytes:
        """The whole body of the answer. Raises Refused, OSError."""
        answer = _Answer()
        try:
            if self._socket is None:
                self._socket = socket.create_connection(self._address, _SECONDS)
            body = call.body or b""
            head = f"{call.method} {call.path} HTTP/1.1\r\n{self._head}\r\nContent-Length: {len(body)}\r\n\r\n"
            self._socket.sendall(head.encode() + body)
            if _QUICKACK is not None:
                self._socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
            while not answer.complete:
                answer.feed(self._socket.recv(_AT_ONCE))
        finally:
            if not answer.kept_open:
                self.close()
        if answer.status >= 300:
            raise Refused(f"{answer.status} to {call.method} {call.path}: {answer.body[:500]!r}")
        return answer.body

    def ask(self, call: Call) -> Any:
        """The answer, decoded."""
        return json.loads(self.send(call))

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class _Answer:
    """One answer as it comes in; the parser calls what begins with ``on_``."""

    def __init__(self) -> None:
        self.complete = self.kept_open = False
        self._parts: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        if not data:
            raise ConnectionResetError("the server closed the connection before its answer was whole")
        self._parser.feed_data(data)

    def on_body(self, part: bytes) -> None:
        self._parts.append(part)

    def on_message_complete(self) -> None:
        # Asked here: afterwards the parser always says no.
        self.complete, self.kept_open = True, self._parser.should_keep_alive()

    @property
    def status(self) -> int:
        return int(self._parser.get_status_code())

    @property
    def body(self) -> bytes:
        return b"".join(self._parts)
