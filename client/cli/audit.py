"""``dkd audit``: who changed what, when and from where. For admins."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from client.cli import exit_codes
from client.cli.options import JsonFlag, positive_limit, write_json
from client.client import Client
from client.rendering.tables import console_for, new_table
from core.protocol.audit import AuditEntry

_FORMATS = ("csv", "jsonl")


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(epilog=exit_codes.HELP)(audit)


def audit(
    person: Annotated[str | None, typer.Option(help="Name of the person.")] = None,
    token: Annotated[str | None, typer.Option(help="Name or id of the token.")] = None,
    action: Annotated[str | None, typer.Option(help="The action or its beginning, such as experiments.")] = None,
    target: Annotated[
        str | None, typer.Option("--object", help="Id of the object, or its name if its kind has no ids.")
    ] = None,
    project: Annotated[str | None, typer.Option(help="Name of the project.")] = None,
    since: Annotated[str | None, typer.Option(help="Date or time in ISO 8601, such as 2026-11-01; UTC.")] = None,
    until: Annotated[str | None, typer.Option(help="Date or time before which it was.")] = None,
    refused: Annotated[bool, typer.Option("--refused", help="Only refused attempts.")] = False,
    limit: Annotated[int, typer.Option(help="Maximum number of entries.")] = 50,
    export: Annotated[
        str | None, typer.Option(help="Print all entries, oldest first: csv, or jsonl for one JSON object per line.")
    ] = None,
    as_json: JsonFlag = False,
) -> int:
    """Show who changed what, when and from where, newest first. For admins.

    Reads, previews and the reports of workers are not recorded.
    """
    filters: dict[str, Any] = {
        "person": person,
        "token": token,
        "action": action,
        "object": target,
        "project": project,
        "since": since,
        "until": until,
        "refused": refused or None,
    }
    if export is not None and export not in _FORMATS:
        raise exit_codes.CliExit(f"--export {export}: must be csv or jsonl", exit_codes.BAD_INPUT)
    with Client() as client:
        if export is not None:
            typer.echo(client.audit.text("csv" if export == "csv" else "jsonl", **filters), nl=False)
            return exit_codes.OK
        page = client.audit.list(limit=positive_limit(limit), **filters)
    if as_json:
        write_json(page)
    elif page.items:
        console_for().print(_table(page.items))
        if page.next_cursor:
            typer.echo("there are earlier entries; --limit shows more, --export csv all", err=True)
    else:
        typer.echo("no entries")
    return exit_codes.OK


def _table(items: list[AuditEntry]) -> Table:
    table = new_table("time", "who", "action", "object", "project", "from", "details")
    for item in items:
        who = f"{item.person} ({item.token})" if item.person else item.token
        action = item.action if item.status < 400 else f"{item.action}: refused ({item.status})"
        table.add_row(
            f"{item.at:%Y-%m-%d %H:%M:%S}",
            who or "no valid token",
            action,
            " ".join(filter(None, (item.kind, item.object))),
            item.project,
            item.address,
            item.details_text(),
        )
    return table
