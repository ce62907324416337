"""What the headers of every answer of the API and of the dashboard have to say to a browser."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping

BANNER = re.compile(r"uvicorn|tornado|streamlit|starlette|python|websockets|hypercorn|gunicorn", re.IGNORECASE)


def rules(policy: str) -> dict[str, str]:
    """Return the directives of a content security policy."""
    directives = (part.strip().partition(" ") for part in policy.split(";"))
    return {name: value for name, _, value in directives}


def check(headers: Mapping[str, str], what: object, *, data: bool = True) -> None:
    """Assert that an answer has every header.

    Args:
        headers: The answer's headers.
        what: Names the request in a failure.
        data: Whether the answer may contain data of people, which no cache may keep.
    """
    assert headers["x-content-type-options"] == "nosniff", what
    assert headers["x-frame-options"] == "DENY", what
    assert headers["referrer-policy"] == "no-referrer", what
    assert headers["cross-origin-opener-policy"] == "same-origin", what
    assert headers["cross-origin-resource-policy"] == "same-origin", what
    assert {"camera=()", "microphone=()", "geolocation=()"} <= set(headers["permissions-policy"].split(", ")), what
    policy = rules(headers["content-security-policy"])
    assert policy["frame-ancestors"] == "'none'", what
    assert policy["default-src"] in ("'none'", "'self'"), what
    assert "unsafe" not in policy.get("script-src", ""), what
    if data:
        assert headers["cache-control"] == "no-store", what
    check_banner(headers, what)


def check_banner(headers: Mapping[str, str], what: object) -> None:
    """Assert that no header names the server program."""
    assert "server" not in headers, what
    assert "x-powered-by" not in headers, what
    for name, value in headers.items():
        if name != "set-cookie":  # Streamlit's frontend reads a cookie of that name
            assert not BANNER.search(f"{name}: {value}"), (what, name, value)


def raw_answer(port: int, request: bytes) -> tuple[int, dict[str, str]]:
    """Send bytes to a server on this machine; return the status and the headers of its answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(request)
        received = b""
        while b"\r\n\r\n" not in received:
            part = connection.recv(65536)
            assert part, received
            received += part
    lines = received.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    headers = (line.partition(":") for line in lines[1:])
    return int(lines[0].split()[1]), {name.lower(): value.strip() for name, _, value in headers}


def upgrade(port: int, path: str, headers: Mapping[str, str] | None = None) -> bytes:
    """Return the request of a WebSocket handshake."""
    lines = [
        f"GET {path} HTTP/1.1",
        *(f"{name}: {value}" for name, value in ({"Host": f"127.0.0.1:{port}"} | dict(headers or {})).items()),
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "\r\n",
    ]
    return "\r\n".join(lines).encode()
