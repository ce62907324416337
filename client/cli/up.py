"""``dkd up``: the embedded stack, until Ctrl-C."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.cli import exit_codes
from client.cli.arguments import path_of

if TYPE_CHECKING:
    from client.stack import Stack

_HELP = """Start the embedded stack on this machine: backend, worker and dashboard, until Ctrl-C.

Nothing else is needed: the database is a SQLite file, the queue a folder, both in --home. Where a wished port is taken,
the next free one is used and printed. Ctrl-C, SIGTERM or a closed terminal stop every process; trainings write a
checkpoint and go on at the next start. Exit code 0 when stopped so, 1 where a service could not be kept.
"""

_OPEN_SHORT = "Print a one-time address of the dashboard."
_OPEN_HELP = """Print a fresh one-time address of the dashboard that runs on this home.

The browser that opens it first, within a day, is known to the dashboard from then on, also after a restart; the address
then opens nothing more. Whoever cannot read the home cannot make one.
"""


def register(app: typer.Typer) -> None:
    app.command(help=_HELP, short_help="Start the embedded stack on this machine.")(up)
    app.command("open", help=_OPEN_HELP, short_help=_OPEN_SHORT, epilog=exit_codes.HELP)(open_dashboard)


def up(
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Of the backend.")] = 8000,
    dashboard_port: Annotated[int, typer.Option(min=1, max=65_535, help="Of the dashboard.")] = 8501,
    slots: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Trainings at once; else one a GPU, or one a core, up to four."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="CPU threads of each training; else the cores shared out.")
    ] = None,
    home: Annotated[
        Path | None,
        typer.Option(
            parser=path_of, metavar="PATH", help="Folder for everything; else DKD_HOME, else the user's data folder."
        ),
    ] = None,
    no_dashboard: Annotated[bool, typer.Option("--no-dashboard", help="Only backend and worker.")] = False,
) -> int:
    # Imported here: the other commands need none of it.
    from client.stack import HomeBusyError, Stack, StackError, StackOptions, StopRequested, StopSignals, embedded_plan
    from client.stack.services import default_slots, missing_packages
    from common.home import Home

    options = StackOptions(
        home=Home(Path(os.path.expanduser(home)).absolute()) if home else Home.find(),
        port=port,
        dashboard_port=dashboard_port,
        slots=slots or default_slots(),
        slots_asked=slots is not None,
        threads=threads or 0,
        dashboard=not no_dashboard,
    )
    if missing := missing_packages(dashboard=options.dashboard):
        raise exit_codes.CliExit(f"not installed here: pip install 'dkd-lab[{','.join(missing)}]'")
    with StopSignals() as signals, Stack(options, embedded_plan(options), signals, typer.echo) as stack:
        try:
            typer.echo(f"starting on {options.home.path} …")
            stack.start()
            describe(stack)
            stack.wait()
        except StopRequested:
            say("stopping; running trainings write a checkpoint (Ctrl-C again: at once)")
            stack.stop()
            say("stopped")
        except HomeBusyError as error:
            raise exit_codes.CliExit(str(error)) from None
        except StackError as error:
            for line in error.lines:
                sys.stderr.write(f"  {line}\n")
            raise exit_codes.CliExit(str(error)) from None
        except OSError as error:
            raise exit_codes.unwritable(str(options.home.path), error) from None
    return exit_codes.OK


def open_dashboard(
    page: Annotated[str, typer.Argument(help="Page that it leads to, as runs or compare?experiment=ID.")] = "",
    home: Annotated[
        Path | None, typer.Option(help="Folder of the stack; else DKD_HOME, else the user's data folder.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Of a dashboard with the login `address` that was not started by `dkd up`.")
    ] = None,
) -> int:
    from client.stack.lock import HomeLock
    from common.home import Home
    from common.one_time_address import Door

    found = Home(home.expanduser().absolute()) if home else Home.find()
    holder = HomeLock(found.path).holder()
    address = url or (holder.dashboard_url if holder else "")
    if not address:
        raise exit_codes.CliExit(
            f"no dashboard runs on {found.path}; `dkd up` starts one, --home or DKD_HOME names another"
        )
    try:
        typer.echo(Door(found).address(address, page.lstrip("/")))
    except OSError as error:
        raise exit_codes.CliExit(f"{found.path}: {error.strerror or error}") from None
    return exit_codes.OK


def describe(stack: Stack) -> None:
    """Where everything is."""
    from client.stack.services import dashboard_login

    options = stack.options
    typer.echo(f"backend    {stack.api_url}  (API documentation: {stack.api_url}/docs)")
    if stack.dashboard_url:
        typer.echo(f"dashboard  {stack.dashboard_address()}")
        if dashboard_login() == "address":
            typer.echo("           (opens once, and lets that browser in; `dkd open` prints another)")
    otherwise = "" if options.slots_asked else " (on GPUs one on each)"
    slots = f"{options.slots} training(s) at once{otherwise}"
    most = "" if options.threads else "at most "
    typer.echo(f"worker     {slots}, {most}{options.threads_each} CPU thread(s) each")
    typer.echo(f"logs       {stack.home.logs}")
    typer.echo("Ctrl-C stops all of it.")


def say(text: str) -> None:
    """A sentence for the person, who may have closed the terminal by now."""
    try:
        typer.echo(text)
    except OSError:
        return
