"""``dkd mcp``: serves the API's calls as tools to programs that run experiments."""

from __future__ import annotations

from typing import Annotated

import typer

from client.address import find_url
from client.cli import exit_codes


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(epilog=exit_codes.HELP)(mcp)


def mcp(
    http: Annotated[
        bool, typer.Option("--http", help="Serve HTTP on 127.0.0.1 instead of stdin and stdout, until Ctrl-C.")
    ] = False,
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port of --http.")] = 8765,
) -> int:
    """Serve the Model Context Protocol, with which coding agents run and compare experiments.

    The tools are catalog, preview, submit, wait, status, logs, compare, claims, table and cancel. Over stdin and stdout
    they use the token of the command line. With --http, each request must carry a token of the backend, whose scopes
    apply. Every comparison says what its seeds support.
    """
    url = find_url(None)
    try:
        from client.agents import server
    except ImportError as error:
        message = f"{error.name or error} is not installed; pip install 'dkd-lab[agents]'"
        raise exit_codes.CliExit(message) from None
    if http:
        typer.echo(f"http://{server.HOST}:{port}{server.PATH} serves tools for {url}; Ctrl-C stops it", err=True)
        server.serve_http(port, url)
    else:
        server.serve_stdio()
    return exit_codes.OK
