"""The client of the platform benchmark keeps one connection, and opens another if the server closed it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks.platform.raw_http import Call, Connection, ErrorStatus

_KEEP_ALIVE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
_CLOSED = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"
_UNPROCESSABLE = b"HTTP/1.1 422 No\r\nContent-Length: 2\r\n\r\n{}"
_TRUNCATED = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{"


@contextmanager
def serve_answers(*answers: bytes) -> Iterator[tuple[str, list[int]]]:
    """Serve the answers in turn; yield the address, and the number of answers on each connection."""
    counts: list[int] = []
    remaining = [*answers]
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while remaining:
                with server.accept()[0] as peer:
                    counts.append(0)
                    while remaining and peer.recv(65_536):
                        answer = remaining.pop(0)
                        counts[-1] += 1
                        peer.sendall(answer)
                        if answer in (_CLOSED, _TRUNCATED):
                            break

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", counts
        thread.join(30)


@pytest.mark.parametrize("answer", [_KEEP_ALIVE, _CHUNKED])
def test_all_requests_share_a_connection(answer: bytes) -> None:
    with serve_answers(*[answer] * 5) as (url, counts):
        connection = Connection(url, "secret")
        assert [connection.send(Call.post("/x", {"a": 1})) for _ in range(5)] == [b"{}"] * 5
        connection.close()
    assert counts == [5]


def test_error_status_keeps_the_connection() -> None:
    with serve_answers(_UNPROCESSABLE, _KEEP_ALIVE) as (url, counts):
        connection = Connection(url)
        with pytest.raises(ErrorStatus, match="422 to GET /x"):
            connection.send(Call.get("/x"))
        assert connection.send_json(Call.get("/x")) == {}
        connection.close()
    assert counts == [2]


@pytest.mark.parametrize("first", [_CLOSED, _TRUNCATED])
def test_closed_connection_is_opened_again(first: bytes) -> None:
    with serve_answers(first, _KEEP_ALIVE) as (url, counts):
        connection = Connection(url)
        if first is _TRUNCATED:
            with pytest.raises(ConnectionResetError, match="before the end of its answer"):
                connection.send(Call.get("/x"))
        else:
            assert connection.send(Call.get("/x")) == b"{}"
        assert connection.send(Call.get("/x")) == b"{}"
        connection.close()
    assert counts == [1, 1]


def test_connection_that_the_server_closed_while_idle_is_opened_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = threading.Event()

        def serve() -> None:
            for _ in range(2):
                with server.accept()[0] as peer:
                    peer.recv(65_536)
                    peer.sendall(_KEEP_ALIVE)
                closed.set()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        connection = Connection(f"http://127.0.0.1:{server.getsockname()[1]}")
        assert connection.send(Call.get("/x")) == b"{}"
        assert closed.wait(30)
        assert connection.send(Call.get("/x")) == b"{}"
        connection.close()
        thread.join(30)
