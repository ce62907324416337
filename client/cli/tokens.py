"""``dkd token create|list|revoke``: access tokens, for admins."""

from __future__ import annotations

from typing import Annotated, get_args

import typer
from rich.table import Table

from client.cli import exit_codes
from client.cli.options import JsonFlag, map_field_errors, write_json
from client.client import Client
from client.rendering.tables import console_for
from core.protocol.access import Scope, TokenInfo

_SCOPES: tuple[Scope, ...] = get_args(Scope)

group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(group, name="token", help="Create, list and revoke tokens. For admins.", epilog=exit_codes.HELP)


@group.command(epilog=exit_codes.HELP)
def create(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A person or a script; shown as the submitter of experiments.")
    ],
    scope: Annotated[
        list[str],
        typer.Option("--scope", "-s", help=f"One of {', '.join(_SCOPES)}. Can be repeated."),
    ],
    days: Annotated[float | None, typer.Option(help="Days until the token expires; never by default.")] = None,
    as_json: JsonFlag = False,
) -> int:
    """Create a token and print it, once.

    read: see everything. submit: read, and submit, change, cancel and delete. worker: claim runs and report on them.
    admin: submit, and create, list and revoke tokens.
    """
    scopes = [item for item in _SCOPES if item in scope]
    if unknown := [item for item in scope if item not in _SCOPES]:
        raise exit_codes.CliExit(f"--scope {unknown[0]}: must be one of {', '.join(_SCOPES)}", exit_codes.BAD_INPUT)
    messages = {
        "name": f"NAME {name!r}: must be 1 to 100 characters on one line, without a space at either end",
        "expires_in_days": f"--days {days}: must be more than 0 and at most 3650",
    }
    with Client() as client, map_field_errors(**messages):
        token = client.tokens.create(name, scopes, expires_in_days=days)
    if as_json:
        write_json(token)
    else:
        typer.echo(token.token)
        typer.echo(f"{token.name} ({', '.join(token.scopes)}), id {token.id}; it is not shown again", err=True)
    return exit_codes.OK


@group.command("list", epilog=exit_codes.HELP)
def list_tokens(as_json: JsonFlag = False) -> int:
    """List tokens, newest first, without their texts."""
    with Client() as client:
        reply = client.tokens.list()
    if as_json:
        write_json(reply)
    else:
        console_for().print(_table(reply.items))
    return exit_codes.OK


@group.command(epilog=exit_codes.HELP)
def revoke(
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="The token's id or name.")],
    as_json: JsonFlag = False,
) -> int:
    """Revoke a token: the backend refuses it from the next request on. Repeating the command changes nothing."""
    with Client() as client:
        matches = [item for item in client.tokens.list().items if token in (item.id, item.name)]
        candidates = [item for item in matches if item.state == "active"] or matches
        if not candidates:
            raise exit_codes.CliExit(f"there is no token {token!r}; `dkd token list` lists them")
        revoked = client.tokens.revoke(candidates[0].id)
    if as_json:
        write_json(revoked)
    else:
        typer.echo(f"{revoked.name} ({revoked.id}): {revoked.state}")
    return exit_codes.OK


def _table(items: list[TokenInfo]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("id", "name", "scopes", "state", "created by", "expires"):
        table.add_column(title)
    for item in items:
        expires = f"{item.expires_at:%Y-%m-%d %H:%M} UTC" if item.expires_at else "never"
        table.add_row(item.id, item.name, ", ".join(item.scopes), item.state, item.created_by, expires)
    return table
