"""Commands about what there is: workers, teachers, the catalog."""

from __future__ import annotations

from typing import Annotated

import typer

from client.cli import exits
from client.cli.options import JsonFlag, connected, write_json
from client.render import catalog_table, console_for, teachers_table, workers_table

_PARTS = ("methods", "models", "datasets", "metrics")


def add_to(app: typer.Typer) -> None:
    app.command(epilog=exits.HELP)(workers)
    app.command(epilog=exits.HELP)(teachers)
    app.command(epilog=exits.HELP)(catalog)


def workers(as_json: JsonFlag = False) -> int:
    """List workers: their place, slots and runs."""
    with connected() as client:
        found = client.workers()
    if as_json:
        write_json(found)
    elif found.items:
        console_for().print(workers_table(found.items))
    else:
        typer.echo("no worker has registered yet")
    return exits.OK


def teachers(as_json: JsonFlag = False) -> int:
    """List teachers, with how many runs use each.

    A teacher is trained once and shared by every experiment that asks for the same.
    """
    with connected() as client:
        found = client.teachers()
    if as_json:
        write_json(found)
    elif found.items:
        console_for().print(teachers_table(found.items))
    else:
        typer.echo("no teachers yet")
    return exits.OK


def catalog(
    part: Annotated[str | None, typer.Argument(metavar="[PART]", help=f"Only one of {', '.join(_PARTS)}.")] = None,
    as_json: JsonFlag = False,
) -> int:
    """List what a spec may name.

    Methods, models and data sets with their parameters, and the metrics; --json has the schemas.
    """
    if part is not None and part not in _PARTS:
        raise exits.Stop(f"{part}: one of {', '.join(_PARTS)}", exits.BAD_INPUT)
    with connected() as client:
        found = client.catalog()
    if as_json:
        write_json(found)
        return exits.OK
    console = console_for()
    for name in [part] if part else _PARTS:
        console.print(catalog_table(name, getattr(found, name)))
        console.print()
    return exits.OK
