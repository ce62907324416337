"""``dkd token create|list|revoke``: who may do what. For admins."""

from __future__ import annotations

from typing import Annotated, get_args

import typer
from rich.table import Table

from client.cli import exit_codes
from client.cli.options import JsonFlag, connected, map_field_errors, write_json
from client.rendering.tables import console_for
from core.protocol.access import Scope, TokenInfo

_SCOPES: tuple[Scope, ...] = get_args(Scope)

group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


def register(app: typer.Typer) -> None:
    app.add_typer(group, name="token", help="Make, list and revoke tokens. For admins.", epilog=exit_codes.HELP)


@group.command(epilog=exit_codes.HELP)
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of a person or a script: who submitted what.")],
    scope: Annotated[
        list[str],
        typer.Option("--scope", "-s", help=f"One of {', '.join(_SCOPES)}. May be given several times."),
    ],
    days: Annotated[float | None, typer.Option(help="Until it expires; left out, it does not.")] = None,
    as_json: JsonFlag = False,
) -> int:
    """Make a token and print it, once.

    read: see everything. submit: read, and submit, change, cancel and delete. worker: claim runs and report on them.
    admin: submit, and make and revoke tokens.
    """
    scopes = [known for known in _SCOPES if known in scope]
    if unknown := [name for name in scope if name not in _SCOPES]:
        raise exit_codes.CliExit(f"--scope {unknown[0]}: one of {', '.join(_SCOPES)}", exit_codes.BAD_INPUT)
    words = {
        "name": f"NAME {name!r}: 1 to 100 characters on one line, no space at either end",
        "expires_in_days": f"--days {days}: more than 0, at most 3650",
    }
    with connected() as client, map_field_errors(**words):
        made = client.create_token(name, scopes, expires_in_days=days)
    if as_json:
        write_json(made)
    else:
        typer.echo(made.token)
        typer.echo(f"{made.name} ({', '.join(made.scopes)}), id {made.id}; it is not shown again", err=True)
    return exit_codes.OK


@group.command("list", epilog=exit_codes.HELP)
def list_tokens(as_json: JsonFlag = False) -> int:
    """List tokens, newest first, without the tokens themselves."""
    with connected() as client:
        found = client.tokens()
    if as_json:
        write_json(found)
    else:
        console_for().print(_table(found.items))
    return exit_codes.OK


@group.command(epilog=exit_codes.HELP)
def revoke(
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="The token's id, or its name.")],
    as_json: JsonFlag = False,
) -> int:
    """Shut a token out, from the next request on. Doing it twice is harmless."""
    with connected() as client:
        named = [item for item in client.tokens().items if token in (item.id, item.name)]
        live = [item for item in named if item.state == "active"] or named
        if not live:
            raise exit_codes.CliExit(f"there is no token {token!r}; `dkd token list` lists them")
        revoked = client.revoke_token(live[0].id)
    if as_json:
        write_json(revoked)
    else:
        typer.echo(f"{revoked.name} ({revoked.id}): {revoked.state}")
    return exit_codes.OK


def _table(items: list[TokenInfo]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("id", "name", "scopes", "state", "made by", "expires"):
        table.add_column(title)
    for item in items:
        expires = f"{item.expires_at:%Y-%m-%d %H:%M} UTC" if item.expires_at else "never"
        table.add_row(item.id, item.name, ", ".join(item.scopes), item.state, item.created_by, expires)
    return table
