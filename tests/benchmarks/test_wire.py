"""The platform benchmark's client: one connection for all its requests, and another where that was closed."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks.platform.wire import Call, Connection, Refused

_KEPT = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
_CLOSED = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"
_REFUSED = b"HTTP/1.1 422 No\r\nContent-Length: 2\r\n\r\n{}"
_CUT = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{"


@contextmanager
def answering(*answers: bytes) -> Iterator[tuple[str, list[int]]]:
    """A server that gives these answers in turn; its address, and how many it gave on each connection."""
    given: list[int] = []
    left = [*answers]
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while left:
                with server.accept()[0] as peer:
                    given.append(0)
                    while left and peer.recv(65_536):
                        answer = left.pop(0)
                        given[-1] += 1
                        peer.sendall(answer)
                        if answer in (_CLOSED, _CUT):
                            break

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", given
        thread.join(30)


@pytest.mark.parametrize("answer", [_KEPT, _CHUNKED])
def test_all_requests_share_a_connection(answer: bytes) -> None:
    with answering(*[answer] * 5) as (url, given):
        connection = Connection(url, "secret")
        assert [connection.send(Call.post("/x", {"a": 1})) for _ in range(5)] == [b"{}"] * 5
        connection.close()
    assert given == [5]


def test_a_refusal_keeps_the_connection() -> None:
    with answering(_REFUSED, _KEPT) as (url, given):
        connection = Connection(url)
        with pytest.raises(Refused, match="422 to GET /x"):
            connection.send(Call.get("/x"))
        assert connection.ask(Call.get("/x")) == {}
        connection.close()
    assert given == [2]


@pytest.mark.parametrize("first", [_CLOSED, _CUT])
def test_a_closed_connection_is_opened_anew(first: bytes) -> None:
    with answering(first, _KEPT) as (url, given):
        connection = Connection(url)
        if first is _CUT:
            with pytest.raises(ConnectionResetError, match="before its answer was whole"):
                connection.send(Call.get("/x"))
        else:
            assert connection.send(Call.get("/x")) == b"{}"
        assert connection.send(Call.get("/x")) == b"{}"
        connection.close()
    assert given == [1, 1]
