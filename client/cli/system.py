"""Commands about workers, teachers and the catalog."""

from __future__ import annotations

from typing import Annotated

import typer

from client.cli import exit_codes
from client.cli.options import JsonFlag, write_json
from client.client import Client
from client.rendering.tables import catalog_table, console_for, render_workers, shares_table, teachers_table

_PARTS = ("methods", "models", "datasets", "metrics")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = typer.Typer(invoke_without_command=True, epilog=exit_codes.HELP, rich_markup_mode=None)
    group.callback()(workers)
    group.command(epilog=exit_codes.HELP)(drain)
    app.add_typer(group, name="workers")
    sharing = typer.Typer(invoke_without_command=True, epilog=exit_codes.HELP, rich_markup_mode=None)
    sharing.callback()(shares)
    sharing.command("set", epilog=exit_codes.HELP)(set_share)
    app.add_typer(sharing, name="shares")
    app.command(epilog=exit_codes.HELP)(teachers)
    app.command(epilog=exit_codes.HELP)(catalog)


def workers(context: typer.Context, as_json: JsonFlag = False) -> None:
    """List workers with their slots, runs and GPUs. `dkd workers drain NAME` stops one from taking new runs."""
    if context.invoked_subcommand is not None:
        return
    with Client() as client:
        reply = client.workers.list()
    if as_json:
        write_json(reply)
    elif reply.items:
        console_for().print(render_workers(reply.items))
    else:
        typer.echo("no worker has registered yet")


def drain(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The worker's name or id.")],
    off: Annotated[bool, typer.Option("--off", help="Let the worker take runs again.")] = False,
    as_json: JsonFlag = False,
) -> int:
    """Stop a worker from taking new runs.

    Its current runs continue to their end. The setting persists over restarts of the worker, until --off.
    """
    with Client() as client:
        reply = client.workers.drain(name, draining=not off)
    if as_json:
        write_json(reply)
        return exit_codes.OK
    for worker in reply.items:
        if name in (worker.id, worker.name) and worker.draining is not off:
            current = f"; {len(worker.runs)} run(s) continue" if worker.runs and not off else ""
            typer.echo(f"{worker.name}: {'takes runs again' if off else 'takes no new runs'}{current}")
    return exit_codes.OK


def shares(context: typer.Context, as_json: JsonFlag = False) -> None:
    """List who shares the queue, and whose turn it is. `dkd shares set OWNER WEIGHT` changes a share."""
    if context.invoked_subcommand is not None:
        return
    with Client() as client:
        reply = client.shares.list()
    if as_json:
        write_json(reply)
    elif reply.items:
        console_for().print(shares_table(reply))
    else:
        typer.echo("nobody has submitted runs yet")


def set_share(
    owner: Annotated[str, typer.Argument(metavar="OWNER", help="The name with which runs were submitted.")],
    weight: Annotated[float, typer.Argument(metavar="WEIGHT", help="Above 0; everybody begins with 1.")],
    as_json: JsonFlag = False,
) -> int:
    """Set an owner's share of the queue. It needs an admin token.

    An owner with weight 2 gets twice the time of one with weight 1 while both have runs waiting.
    """
    with Client() as client:
        reply = client.shares.set(owner, weight)
    if as_json:
        write_json(reply)
    else:
        console_for().print(shares_table(reply))
    return exit_codes.OK


def teachers(as_json: JsonFlag = False) -> int:
    """List teachers with the number of runs that use each.

    A teacher is trained once and shared by all experiments that need the same one.
    """
    with Client() as client:
        reply = client.teachers.list()
    if as_json:
        write_json(reply)
    elif reply.items:
        console_for().print(teachers_table(reply.items))
    else:
        typer.echo("no teachers yet")
    return exit_codes.OK


def catalog(
    part: Annotated[str | None, typer.Argument(metavar="[PART]", help=f"Only one of {', '.join(_PARTS)}.")] = None,
    as_json: JsonFlag = False,
) -> int:
    """List methods, models, data sets and metrics.

    Specs refer to them by these names. Parameters are shown with their defaults; --json prints their schemas.
    """
    if part is not None and part not in _PARTS:
        raise exit_codes.CliExit(f"{part}: must be one of {', '.join(_PARTS)}", exit_codes.BAD_INPUT)
    with Client() as client:
        reply = client.catalog()
    if as_json:
        write_json(reply)
        return exit_codes.OK
    console = console_for()
    for name in [part] if part else _PARTS:
        console.print(catalog_table(name, getattr(reply, name)))
        console.print()
    return exit_codes.OK
