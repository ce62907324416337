"""``dkd login``, ``dkd logout`` and ``dkd session …``: sign-in with a password, and the own sessions."""

from __future__ import annotations

import os
import platform
import sys
from typing import Annotated

import typer

from client.cli import exit_codes
from client.cli.options import JsonFlag, write_json
from client.client import Client
from client.errors import ApiError
from client.rendering.tables import console_for, new_table
from common.atomic_write import atomic_write
from common.formatting import count_text
from common.home import Home
from core.protocol.sessions import CreatedSession, Session

group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

_NO_TOKEN = "none"
"""Sent with a sign-in instead of the token of another identity, which the request does not need."""


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("login", epilog=exit_codes.HELP)(login)
    app.command("logout", epilog=exit_codes.HELP)(logout)
    app.add_typer(group, name="session", help="List and end your own sessions.", epilog=exit_codes.HELP)


def read_secret(prompt: str) -> str:
    """Return a secret that a person types, which is not shown, or the next line of stdin if it is not a terminal.

    Raises:
        CliExit: Stdin contains no further line.
    """
    if sys.stdin is not None and sys.stdin.isatty():
        secret: str = typer.prompt(prompt, hide_input=True)
        return secret
    line = sys.stdin.readline() if sys.stdin is not None else ""
    if not line.strip():
        raise exit_codes.CliExit(f"{prompt.lower()}: nothing was read from stdin", exit_codes.BAD_INPUT)
    return line.rstrip("\r\n")


def read_new_secret(prompt: str) -> str:
    """Return a new secret, which a person types twice.

    Raises:
        CliExit: The two differ, or stdin contains no further line.
    """
    secret = read_secret(prompt)
    if sys.stdin is not None and sys.stdin.isatty() and read_secret(f"{prompt}, again") != secret:
        raise exit_codes.CliExit("the two passwords differ", exit_codes.BAD_INPUT)
    return secret


def login(
    person: Annotated[str | None, typer.Argument(metavar="PERSON", help="Your name; asked for by default.")] = None,
    invitation: Annotated[
        bool, typer.Option("--invitation", help="Choose a password with the code that an admin gave you.")
    ] = False,
    as_json: JsonFlag = False,
) -> int:
    """Sign in with a name and a password, which is asked for, or read from stdin if that is not a terminal.

    Further commands and scripts of this account act as you, at this backend, until the session ends or `dkd logout`.
    """
    name = f"dkd on {platform.node()}"[:100]
    with Client(token=_NO_TOKEN, use_login=False) as client:
        if invitation:
            code = read_secret("Code")
            created = client.sessions.sign_in_invited(code, read_new_secret("New password"), client=name)
        else:
            who = person or typer.prompt("Name", err=True)
            secret, earlier = read_secret("Password"), _stored(client.url)
            created = client.sessions.sign_in(who, secret, client=name, earlier_session=earlier)
        url = client.url
    _store(url, created)
    if as_json:
        write_json(Session.model_validate(created.model_dump()))
    else:
        typer.echo(f"signed in as {created.person}, until {created.ends_at:%Y-%m-%d %H:%M} UTC or `dkd logout`")
    for variable in ("DKD_API_TOKEN", "DKD_API_TOKEN_FILE"):
        if os.environ.get(variable):
            typer.echo(f"{variable} is set, and is used instead of this session", err=True)
    return exit_codes.OK


def logout() -> int:
    """End the session of `dkd login` at this backend, and remove it from this account."""
    with Client(token=_NO_TOKEN, use_login=False) as client:
        url = client.url
    token = _stored(url)
    if token is None:
        raise exit_codes.CliExit(f"there is no session at {url}; `dkd login` begins one")
    with Client(token=token, use_login=False) as client:
        try:
            client.sessions.end()
        except ApiError as error:
            if error.status not in (401, 404):  # it has ended already
                raise
    Home.find().session(url).unlink(missing_ok=True)
    typer.echo(f"signed out at {url}")
    return exit_codes.OK


@group.command("list", epilog=exit_codes.HELP)
def list_sessions(as_json: JsonFlag = False) -> int:
    """List your sessions that have not ended."""
    with Client() as client:
        reply = client.sessions.list()
    if as_json:
        write_json(reply)
        return exit_codes.OK
    table = new_table("id", "used with", "from", "signed in by", "since", "last use", "ends")
    for item in reply.items:
        used_with = f"{item.client} (this one)" if item.current else item.client
        last_use = f"{item.last_used_at:%Y-%m-%d %H:%M}" if item.last_used_at else ""
        ends_at = min(item.idle_ends_at, item.ends_at)
        since = f"{item.created_at:%Y-%m-%d %H:%M}"
        table.add_row(item.id, used_with, item.address, item.method, since, last_use, f"{ends_at:%Y-%m-%d %H:%M} UTC")
    console_for().print(table)
    return exit_codes.OK


@group.command("end", epilog=exit_codes.HELP)
def end_session(
    session: Annotated[str | None, typer.Argument(metavar="SESSION", help="The session's id.")] = None,
    others: Annotated[bool, typer.Option("--others", help="End all your sessions but this one.")] = False,
    everywhere: Annotated[bool, typer.Option("--all", help="End all your sessions, also this one.")] = False,
    as_json: JsonFlag = False,
) -> int:
    """End one of your sessions, all others, or all: they are refused from the next request on."""
    if sum((session is not None, others, everywhere)) != 1:
        raise exit_codes.CliExit("name one SESSION, or give --others or --all", exit_codes.BAD_INPUT)
    with Client() as client:
        if session is not None:
            ended = client.sessions.end(session)
            if as_json:
                write_json(ended)
            else:
                typer.echo(f"{ended.id}: ended")
            return exit_codes.OK
        reply = client.sessions.end_all(current=everywhere)
    if as_json:
        write_json(reply)
    else:
        typer.echo(f"{count_text(reply.ended, 'session')} ended")
    return exit_codes.OK


def _stored(url: str) -> str | None:
    """Return the session of `dkd login`, which may have ended; None without one."""
    try:
        return Home.find().session(url).read_text(encoding="ascii").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def _store(url: str, created: CreatedSession) -> None:
    """Write the session into a file that only this account can read.

    Raises:
        CliExit: The file cannot be written.
    """
    file = Home.find().session(url)
    try:
        for folder in (file.parents[2], file.parents[1], file.parent):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        atomic_write(file, created.token + "\n", private=True)
    except OSError as error:
        raise exit_codes.unwritable(str(file), error) from None
