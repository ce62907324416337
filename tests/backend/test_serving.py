"""The server process: its connections, its watchdog, its database, and a full disk."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from sqlalchemy import text

from backend.api import connections
from backend.db import Database, engine, migrate
from tests.backend.lab import Lab, plain
from tests.services import free_port

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0


@pytest.fixture
def database_url(tmp_path: Path, migrated_file: Path) -> str:
    shutil.copy(migrated_file, tmp_path / "dkd.sqlite3")
    return f"sqlite:///{tmp_path / 'dkd.sqlite3'}"


class Streaming:
    """An application with an endless ``/stream``; it answers all other requests without reading their body."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        length = [] if scope["path"] == "/stream" else [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": length})
        if scope["path"] == "/stream":
            await send({"type": "http.response.body", "body": b"ok", "more_body": True})
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(connections, "REST_SECONDS", 0.5)
    number = free_port()
    config = uvicorn.Config(
        Streaming(), port=number, http=connections.LimitedConnection, lifespan="off", log_config=None, ws="none"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield number
    server.should_exit = True
    server.force_exit = True
    thread.join()


Open = Callable[..., socket.socket]


@pytest.fixture
def opened(port: int) -> Iterator[Open]:
    """Yield a function that opens a connection and sends bytes; all connections are closed at the end."""
    with contextlib.ExitStack() as stack:

        def open_one(sent: bytes = b"") -> socket.socket:
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            connection.sendall(sent)
            return connection

        yield open_one


def takes_for_ever(connection: socket.socket) -> bool:
    """Return whether the connection is still open after two thousand bytes, sent slowly."""
    try:
        for _ in range(2000):
            connection.sendall(b"x")
            time.sleep(0.01)
    except OSError:  # a reset or a broken pipe
        return False
    return True


def rest(connection: socket.socket) -> bytes:
    """Return everything received until the other side closes."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            received += part
    return received


def get(path: str, more: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{more}\r\n".encode()


def test_silent_or_endless_connection_is_closed(opened: Open) -> None:
    stream = opened(get("/stream"))
    silent, half = opened(), opened(b"GET / HTTP/1.1\r\nHost: 12")
    assert rest(silent) == b""
    assert rest(half) == b""
    # The request is answered although its body still arrives byte by byte.
    trickling = opened(get("/", "Content-Length: 100000\r\n"))
    assert trickling.recv(1000).endswith(b"ok")
    assert not takes_for_ever(trickling)
    stream.setblocking(False)
    assert stream.recv(1000).endswith(b"2\r\nok\r\n")
    with pytest.raises(BlockingIOError):  # the stream is still open
        stream.recv(1000)


def test_a_head_that_is_too_long_is_refused(opened: Open) -> None:
    answer = rest(opened(b"GET / HTTP/1.1\r\n" + b"x: " + b"y" * 80_000))
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b"application/problem+json" in answer
    assert rest(opened(b"\x16\x03\x01\x02\x00\x01\x00")).startswith(b"HTTP/1.1 400 ")


def test_silent_connections_do_not_block_others(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 3600.0)
    monkeypatch.setattr(connections, "max_connections", lambda: 6)
    silent = [opened() for _ in range(30)]
    for _ in range(3):
        assert rest(opened(get("/", "Connection: close\r\n"))).endswith(b"ok")
    streams = [opened(get("/stream")) for _ in range(6)]
    assert all(stream.recv(1000).startswith(b"HTTP/1.1 200") for stream in streams)
    refused = rest(opened())
    assert refused.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: 1" in refused.splitlines()
    assert len(silent) == 30


def test_max_connections_leave_descriptors_for_the_rest() -> None:
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert limit // 2 <= connections.max_connections() < limit


def serve(folder: Path, port: int, database: Path | None = None, **environment: str) -> subprocess.Popen[bytes]:
    defaults = {
        "DKD_HOME": str(folder),
        "DKD_DATABASE_URL": f"sqlite:///{database or folder / 'dkd.sqlite3'}",
        "PYTHONPATH": str(folder),
    }
    command = [sys.executable, "-m", "backend", "serve", "--port", str(port)]
    log = environment.pop("LOG", str(folder / f"{port}.log"))
    with open(log, "wb") as output:
        return subprocess.Popen(
            command, cwd=ROOT, env=os.environ | defaults | environment, stdout=subprocess.DEVNULL, stderr=output
        )


def answers(port: int, process: subprocess.Popen[bytes]) -> bool:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False).status_code == 200
        time.sleep(0.05)
    return False


def test_a_second_backend_on_one_sqlite_file_is_refused(tmp_path: Path, database_url: str) -> None:
    (tmp_path / "link.sqlite3").symlink_to(tmp_path / "dkd.sqlite3")
    port, other = free_port(), free_port()
    first = serve(tmp_path, port)
    try:
        assert answers(port, first)
        second = serve(tmp_path, other, tmp_path / "link.sqlite3")
        assert second.wait(PATIENCE) == 2
        log = (tmp_path / f"{other}.log").read_text()
        assert f"already served by process {first.pid} at http://127.0.0.1:{port}" in log
        assert "Traceback" not in log
    finally:
        first.kill()
        first.wait()
    third = serve(tmp_path, other)  # the lock ends with its process, however that ends
    try:
        assert answers(other, third)
    finally:
        third.kill()
        third.wait()


def test_process_with_a_blocked_event_loop_ends(tmp_path: Path, database_url: str) -> None:
    """One call of C code holds the interpreter's lock, as a product of large numbers does."""
    (tmp_path / "standstill.py").write_text(
        "import threading, time\n"
        "def go():\n    time.sleep(2)\n    sum(range(10**12))\n"
        "threading.Thread(target=go, daemon=True).start()\n"
    )
    process = serve(tmp_path, free_port(), DKD_PLUGINS="standstill", DKD_WATCHDOG_SECONDS="1")
    try:
        assert process.wait(PATIENCE) == 1
    finally:
        process.kill()
        process.wait()
    log = next(tmp_path.glob("*.log")).read_text()
    assert "Timeout" in log
    assert "standstill.py" in log


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_unwritable_log_fails_no_request(tmp_path: Path, database_url: str) -> None:
    port = free_port()
    process = serve(tmp_path, port, LOG="/dev/full", DKD_LOG_LEVEL="debug")
    try:
        assert answers(port, process)
        refused = httpx.get(f"http://127.0.0.1:{port}/api/v1/runs", trust_env=False)
        assert (refused.status_code, refused.headers["content-type"]) == (401, "application/problem+json")
    finally:
        process.kill()
        process.wait()


def test_database_of_a_later_version_is_refused_with_a_reason(tmp_path: Path, database_url: str) -> None:
    database = Database(database_url)
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert "later version" in migrate.mismatch(database)
    database.dispose()
    environment = {"DKD_HOME": str(tmp_path), "DKD_DATABASE_URL": database_url}
    for command in (["migrate"], ["serve", "--port", str(free_port())]):
        done = subprocess.run(
            [sys.executable, "-m", "backend", *command],
            cwd=ROOT,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 2
        assert "version 9999, which a later version of this program has made" in done.stderr
        assert "Traceback" not in done.stderr
        assert "run `python -m backend migrate`" not in done.stderr


def test_readiness_names_a_later_version(lab: Lab, database: Database) -> None:
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    answer = lab.admin.get("/readyz")
    assert answer.status_code == 503
    assert "later version" in answer.json()["detail"]


def test_full_disk_under_the_database_is_a_507_and_stores_nothing(
    make_lab: Any, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.read() as session:
        pages = session.execute(text("PRAGMA page_count")).scalar_one()
    monkeypatch.setattr(engine, "_PRAGMAS", (*engine._PRAGMAS, f"max_page_count={pages + 2}"))
    lab: Lab = make_lab()
    for path in ("/api/v1/experiments", "/api/v1/experiments/bulk"):
        body: Any = plain("many", runs=500)
        answer = lab.admin.post(path, json=body if "bulk" not in path else {"experiments": [body]})
        assert answer.status_code == 507
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["retry-after"]
        assert "full" in answer.json()["detail"]
    assert lab.experiments() == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_under_uploads_is_a_507(lab: Lab, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def no_room() -> Path:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lab.app.state.store, "new_file", no_room)
    answer = lab.admin.post("/api/v1/teachers/uploads?name=x", content=b"x")
    assert (answer.status_code, answer.headers["content-type"]) == (507, "application/problem+json")
    assert answer.headers["retry-after"]
