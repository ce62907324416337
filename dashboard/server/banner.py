"""Answers without the name of the server program."""

from __future__ import annotations

from socket import socket

import uvicorn


def hide_server_name() -> None:
    """Make uvicorn send no ``Server`` header, which would tell an attacker which faults to try.

    Streamlit starts uvicorn without the option ``server_header=False`` and gives no access to its configuration. The
    header is part of every answer, also of a WebSocket's handshake and of input that is not HTTP.
    """
    startup = uvicorn.Server.startup

    async def startup_without_name(self: uvicorn.Server, sockets: list[socket] | None = None) -> None:
        self.config.encoded_headers = [item for item in self.config.encoded_headers if item[0] != b"server"]
        await startup(self, sockets)

    uvicorn.Server.startup = startup_without_name  # type: ignore[method-assign]
