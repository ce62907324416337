"""One HTTP client for both servers: the standard library's, its connection kept open, bodies made beforehand."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

_SECONDS = 120

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
    """Keep-alive to one server; for one thread."""

    def __init__(self, url: str, token: str | None = None) -> None:
        parts = urlsplit(url)
        self._http = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_SECONDS)
        self._headers: Mapping[str, str] = {"Content-Type": "application/json"} | (
            {"Authorization": f"Bearer {token}"} if token else {}
        )

    def send(self, call: Call) -> bytes:
        """The whole body of the answer. Raises Refused, OSError."""
        self._http.request(call.method, call.path, call.body, dict(self._headers))
        if _QUICKACK is not None:
            self._http.sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
        answer = self._http.getresponse()
        body = answer.read()
        if answer.status >= 300:
            raise Refused(f"{answer.status} to {call.method} {call.path}: {body[:500]!r}")
        return body

    def ask(self, call: Call) -> Any:
        """The answer, decoded."""
        return json.loads(self.send(call))

    def close(self) -> None:
        self._http.close()
