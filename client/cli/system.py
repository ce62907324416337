"""Commands about what there is: workers, teachers, the catalog."""

from __future__ import annotations

from typing import Annotated

import typer

from client.cli import exit_codes
from client.cli.options import JsonFlag, connected, write_json
from client.rendering.tables import catalog_table, console_for, render_workers, teachers_table

_PARTS = ("methods", "models", "datasets", "metrics")


def register(app: typer.Typer) -> None:
    group = typer.Typer(invoke_without_command=True, epilog=exit_codes.HELP, rich_markup_mode=None)
    group.callback()(workers)
    group.command(epilog=exit_codes.HELP)(drain)
    app.add_typer(group, name="workers")
    app.command(epilog=exit_codes.HELP)(teachers)
    app.command(epilog=exit_codes.HELP)(catalog)


def workers(context: typer.Context, as_json: JsonFlag = False) -> None:
    """List workers: their slots, what runs there, their GPUs. `dkd workers drain NAME` lets one take no new runs."""
    if context.invoked_subcommand is not None:
        return
    with connected() as client:
        found = client.workers()
    if as_json:
        write_json(found)
    elif found.items:
        console_for().print(render_workers(found.items))
    else:
        typer.echo("no worker has registered yet")


def drain(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The worker's name or id.")],
    off: Annotated[bool, typer.Option("--off", help="Let it take runs again.")] = False,
    as_json: JsonFlag = False,
) -> int:
    """Have a worker take no new runs.

    What it has goes on to its end. It is remembered over restarts of the worker, until --off.
    """
    with connected() as client:
        found = client.drain_worker(name, draining=not off)
    if as_json:
        write_json(found)
        return exit_codes.OK
    for worker in found.items:
        if name in (worker.id, worker.name) and worker.draining is not off:
            left = f"; {len(worker.runs)} run(s) go on" if worker.runs and not off else ""
            typer.echo(f"{worker.name}: {'takes runs again' if off else 'takes no new runs'}{left}")
    return exit_codes.OK


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
    return exit_codes.OK


def catalog(
    part: Annotated[str | None, typer.Argument(metavar="[PART]", help=f"Only one of {', '.join(_PARTS)}.")] = None,
    as_json: JsonFlag = False,
) -> int:
    """List what a spec may name.

    Methods, models and data sets with their parameters, and the metrics; --json has the schemas.
    """
    if part is not None and part not in _PARTS:
        raise exit_codes.CliExit(f"{part}: one of {', '.join(_PARTS)}", exit_codes.BAD_INPUT)
    with connected() as client:
        found = client.catalog()
    if as_json:
        write_json(found)
        return exit_codes.OK
    console = console_for()
    for name in [part] if part else _PARTS:
        console.print(catalog_table(name, getattr(found, name)))
        console.print()
    return exit_codes.OK
