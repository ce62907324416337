"""The MCP server with its two transports: stdio for one program, and HTTP on the loopback address for several."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from importlib.metadata import version
from typing import Any

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import ToolAnnotations
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from client.agents.toolset import ClientOf, Tools
from client.client import Client
from common.terminal import inner

HOST = "127.0.0.1"
PATH = "/mcp"
INSTRUCTIONS = (
    "DKD Lab runs knowledge-distillation experiments and compares methods over paired seeds. Preview a spec before you "
    "submit it, wait for its end, then compare. A higher mean is not a result: replace a baseline only if `compare` "
    'says "keep", and report the referee\'s sentence with the numbers. Choose the number of seeds before the first '
    "result, at least 6, and do not add seeds until a verdict changes."
)
_READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
_CREATES = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False)
_CANCELS = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False)


def build_server(client_of: ClientOf) -> MCPServer[Any]:
    """Return the server with its tools.

    Args:
        client_of: Gives the client with the token of a tool's caller.
    """
    server: MCPServer[Any] = MCPServer(
        "dkd-lab",
        title="DKD Lab",
        instructions=INSTRUCTIONS,
        version=version("dkd-lab"),
        log_level="WARNING",
    )
    tools = Tools(client_of)
    for read in (
        tools.catalog,
        tools.preview,
        tools.wait,
        tools.status,
        tools.logs,
        tools.compare,
        tools.claims,
        tools.table,
    ):
        server.add_tool(read, annotations=_READS)
    server.add_tool(tools.submit, annotations=_CREATES)
    server.add_tool(tools.cancel, annotations=_CANCELS)
    return server


def serve_stdio() -> None:
    """Serve the program that started this one, with the token that the command line would use.

    Raises:
        ClientSettingsError: The backend's address or the token file cannot be used.
    """
    with Client() as client, redirect_stdout(inner(sys.stdout)):
        build_server(lambda _: nullcontext(client)).run("stdio")


def serve_http(port: int, url: str) -> None:
    """Serve programs on this machine until SIGINT or SIGTERM. Each request carries the caller's own token.

    Args:
        port: The port on the loopback address.
        url: The backend's address.
    """
    server = build_server(lambda context: _client_of_request(context, url))
    # Without sessions, every request is authorised by its own token alone.
    app = RequireToken(server.streamable_http_app(streamable_http_path=PATH, stateless_http=True, host=HOST))
    uvicorn.run(app, host=HOST, port=port, log_level="warning", timeout_graceful_shutdown=5)


@contextmanager
def _client_of_request(context: Context[Any, Any], url: str) -> Iterator[Client]:
    token = _bearer((context.headers or {}).get("authorization", ""))
    with Client(url, token) as client:
        yield client


def _bearer(header: str) -> str:
    """Return the token of an Authorization header; empty if it has none."""
    scheme, _, token = header.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


class RequireToken:
    """ASGI middleware that refuses requests without a bearer token. The backend decides whether a token is valid.

    Args:
        app: The application behind it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on if it has a bearer token."""
        if scope["type"] == "http" and not _bearer(Headers(scope=scope).get("authorization", "")):
            text = "send a token of the backend as 'Authorization: Bearer …'"
            refusal = JSONResponse({"error": text}, status_code=401, headers={"WWW-Authenticate": "Bearer"})
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)
