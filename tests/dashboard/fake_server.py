"""Serve a fake backend over HTTP on the loopback address."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Generic, Protocol, Self, TypeVar

from core.protocol.public import ProblemDetails, ProblemField


class Refused(Exception):  # noqa: N818
    """An error response with problem details."""

    def __init__(self, status: int, detail: str, errors: list[tuple[str, str]] | None = None) -> None:
        super().__init__(detail)
        self.problem = ProblemDetails(
            title=detail,
            status=status,
            detail=detail,
            errors=[ProblemField(path=path, message=message) for path, message in errors or []],
        )


class Answering(Protocol):
    """A backend that can be served. ``sent`` counts the bytes of its responses."""

    sent: int

    def answer(self, method: str, target: str, body: Any, headers: Any) -> tuple[int, Any]:
        """Return the status and the content of the response.

        Raises:
            Refused: The response is an error.
        """


B = TypeVar("B", bound=Answering)


class Serving(Generic[B]):
    """Serves a backend. ``stop`` followed by ``start`` on the same port simulates an outage.

    Attributes:
        tokens: Tokens of the requests, in their order.
        refuse: Status of every response from now on, as if no token were accepted.
    """

    def __init__(self, backend: B, port: int = 0) -> None:
        self.backend = backend
        self.tokens: list[str] = []
        self.refuse: int | None = None
        self.port = port
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Self:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer("GET", None)

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                text = self.rfile.read(length)
                self._answer("POST", json.loads(text) if text else None)

            def _answer(self, method: str, body: Any) -> None:
                backend = server.backend
                server.tokens.append(self.headers.get("Authorization", "").removeprefix("Bearer "))
                try:
                    if server.refuse is not None:
                        raise Refused(server.refuse, "the token is not accepted")
                    status, content = backend.answer(method, self.path, body, self.headers)
                    kind = "application/json"
                except Refused as refused:
                    status, content = refused.problem.status, refused.problem
                    kind = "application/problem+json"
                if isinstance(content, bytes):
                    kind, data = "image/jpeg", content
                else:
                    text = json.dumps(content) if isinstance(content, dict) else content.model_dump_json()
                    data = text.encode()
                backend.sent += len(data)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                # A kept-alive connection would hold its thread, and would be answered after ``stop``.
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(data)
                self.close_connection = True

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        if self._server and self._thread:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()
