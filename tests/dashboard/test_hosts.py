"""The dashboard's WebSocket accepts local host names only, which prevents DNS rebinding."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.services import free_port

APP = Path(__file__).parents[2] / "dashboard" / "app.py"


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    home = tmp_path_factory.mktemp("home")
    port = free_port()
    command = [sys.executable, "-m", "streamlit", "run", str(APP), "--server.port", str(port)]
    environment = {**os.environ, "HOME": str(home), "DKD_HOME": str(home), "DKD_API_URL": "http://127.0.0.1:9"}
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--server.address", "127.0.0.1"], env=environment, stdout=log, stderr=log, cwd=home
        )
    try:
        end = time.monotonic() + 90
        while True:
            assert process.poll() is None, (home / "log").read_text()
            try:
                if httpx.get(f"http://127.0.0.1:{port}/_stcore/health").status_code == 200:
                    break
            except httpx.TransportError:
                assert time.monotonic() < end, (home / "log").read_text()
                time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait(20)


def handshake(port: int, host: str, origin: str) -> int:
    """Return the status of a WebSocket handshake; 101 means that it is accepted."""
    request = (
        f"GET /_stcore/stream HTTP/1.1\r\nHost: {host}:{port}\r\nOrigin: {origin}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        connection.sendall(request.encode())
        return int(connection.recv(1024).split(b" ")[1])


def test_websocket_accepts_local_host_names(port: int) -> None:
    for name in ("127.0.0.1", "localhost"):
        assert handshake(port, name, f"http://{name}:{port}") == 101


def test_websocket_refuses_other_host_names_and_origins(port: int) -> None:
    assert handshake(port, "evil.example", f"http://evil.example:{port}") == 403
    assert handshake(port, "127.0.0.1", "http://evil.example") == 403
    assert handshake(port, "127.0.0.1", f"http://127.0.0.1:{port + 1}") == 403
    assert handshake(port, "127.0.0.1", f"http://localhost:{port}") == 403
