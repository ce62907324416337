"""``dkd token create|list|rotate|revoke``: access tokens, for admins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.table import Table

from client.cli import exit_codes
from client.cli.arguments import path_of
from client.cli.options import JsonFlag, map_field_errors, write_json
from client.client import Client
from client.rendering.tables import console_for
from common.atomic_write import atomic_path
from core.protocol.access import EXPIRY_WARNING, RotatedToken, Scope, TokenInfo

_SCOPES: tuple[Scope, ...] = get_args(Scope)

group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(
        group, name="token", help="Create, list, rotate and revoke tokens. For admins.", epilog=exit_codes.HELP
    )


@group.command(epilog=exit_codes.HELP)
def create(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="Name of the token; a service's is shown as the submitter of experiments."),
    ],
    scope: Annotated[
        list[str],
        typer.Option("--scope", "-s", help=f"One of {', '.join(_SCOPES)}. Can be repeated."),
    ],
    days: Annotated[float | None, typer.Option(help="Days until the token expires; never by default.")] = None,
    person: Annotated[
        str | None,
        typer.Option(help="Person who uses it: it permits no more than the person's roles. By default a service's."),
    ] = None,
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
        token = client.tokens.create(name, scopes, expires_in_days=days, person=person)
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
def rotate(
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="The token's id or name.")],
    overlap_hours: Annotated[
        float, typer.Option(help="Hours for which the earlier text stays valid; 0 ends all earlier texts at once.")
    ] = 24.0,
    days: Annotated[
        float | None, typer.Option(help="Days until the token expires from now on; by default its end does not change.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(parser=path_of, metavar="PATH", help="Token file that gets the new text; it is not printed then."),
    ] = None,
    as_json: JsonFlag = False,
) -> int:
    """Give a token a new text and print it, once. Its name, scopes, experiments and workers do not change.

    The earlier text stays valid for the overlap, so that every node can get the new one without an interruption.
    """
    messages = {
        "overlap_hours": f"--overlap-hours {overlap_hours}: must be from 0 to 720",
        "expires_in_days": f"--days {days}: must be more than 0 and at most 3650",
    }
    with Client() as client, map_field_errors(**messages), _new_file(file) as partial:
        found = _find(client, token)
        rotated = client.tokens.rotate(found.id, overlap_hours=overlap_hours, expires_in_days=days)
        if partial is not None:
            partial.write_text(rotated.token + "\n", encoding="utf-8")
    if as_json:
        write_json(rotated.model_copy(update={"token": ""}) if file else rotated)
    elif file is None:
        typer.echo(rotated.token)
    typer.echo(_rotation_note(rotated, file), err=True)
    return exit_codes.OK


@group.command(epilog=exit_codes.HELP)
def revoke(
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="The token's id or name.")],
    as_json: JsonFlag = False,
) -> int:
    """Revoke a token: the backend refuses it from the next request on. Repeating the command changes nothing."""
    with Client() as client:
        revoked = client.tokens.revoke(_find(client, token).id)
    if as_json:
        write_json(revoked)
    else:
        typer.echo(f"{revoked.name} ({revoked.id}): {revoked.state}")
    return exit_codes.OK


@contextmanager
def _new_file(file: Path | None) -> Iterator[Path | None]:
    """Yield the path at which the new content of a token file is written, before the token is rotated.

    Raises:
        CliExit: The file cannot be written.
    """
    if file is None:
        yield None
        return
    try:
        with atomic_path(file, private=True, sync=True) as partial:
            yield partial
    except OSError as error:
        raise exit_codes.unwritable(str(file), error) from None


def _find(client: Client, token: str) -> TokenInfo:
    """Return the token with an id or a name; of several with one name, the active one.

    Raises:
        CliExit: There is no such token.
    """
    matches = [item for item in client.tokens.list().items if token in (item.id, item.name)]
    candidates = [item for item in matches if item.state == "active"] or matches
    if not candidates:
        raise exit_codes.CliExit(f"there is no token {token!r}; `dkd token list` lists them")
    return candidates[0]


def _rotation_note(rotated: RotatedToken, file: Path | None) -> str:
    overlap_end = rotated.earlier_text_ends_at
    lines = [
        f"{rotated.name} ({', '.join(rotated.scopes)}), id {rotated.id}: "
        + (f"the new text is in {file}" if file else "the new text is not shown again")
        + (
            f"; earlier texts end at {overlap_end:%Y-%m-%d %H:%M} UTC"
            if overlap_end
            else "; the earlier text has ended"
        )
    ]
    if rotated.files:
        lines.append(f"the backend has written it into its own token file: {', '.join(rotated.files)}")
    if rotated.unwritable_files:
        names = ", ".join(rotated.unwritable_files)
        lines.append(f"the backend cannot write its own token file ({names}): write the new text into it yourself")
    return "\n".join(lines)


def _table(items: list[TokenInfo]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("id", "name", "scopes", "state", "person", "created by", "last use", "expires"):
        table.add_column(title)
    now = datetime.now(UTC)
    for item in items:
        last_use = f"{item.last_used_at:%Y-%m-%d %H:%M} UTC" if item.last_used_at else "never"
        scopes, person, expiry = ", ".join(item.scopes), item.person or "", _expiry(item, now)
        table.add_row(item.id, item.name, scopes, item.state, person, item.created_by, last_use, expiry)
    return table


def _expiry(item: TokenInfo, now: datetime) -> str:
    if item.expires_at is None:
        return "never"
    soon = item.state == "active" and item.expires_at - now < EXPIRY_WARNING
    return f"{item.expires_at:%Y-%m-%d %H:%M} UTC{' (soon)' if soon else ''}"
