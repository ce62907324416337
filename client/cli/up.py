"""``dkd up`` runs the embedded stack until Ctrl-C; ``dkd open`` prints an address of its dashboard."""

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

Nothing else is needed: the database is a SQLite file and the queue a folder, both in --home. If a port is taken, the
next free one is used and printed. Ctrl-C, SIGTERM and closing the terminal stop every process; trainings write a
checkpoint and continue at the next start. Exit code 0 after such a stop, 1 if a service could not be kept running.
"""

_OPEN_SHORT = "Print a one-time address of the dashboard."
_OPEN_HELP = """Print a new one-time address of the dashboard that runs on this home.

The address works for one browser and within a day. That browser keeps its access until it signs out, is not used for
a week, or the stack is started again. Only accounts that can read the home can create such an address.
"""


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(help=_HELP, short_help="Start the embedded stack on this machine.")(up)
    app.command("open", help=_OPEN_HELP, short_help=_OPEN_SHORT, epilog=exit_codes.HELP)(open_dashboard)


def up(
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port of the backend.")] = 8000,
    dashboard_port: Annotated[int, typer.Option(min=1, max=65_535, help="Port of the dashboard.")] = 8501,
    slots: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1024,
            help="Trainings at the same time; by default one per GPU, or one per core up to 8 (beyond 32: per four).",
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="CPU threads of each training; by default the cores divided by the slots."),
    ] = None,
    home: Annotated[
        Path | None,
        typer.Option(
            parser=path_of,
            metavar="PATH",
            help="Folder of the stack; by default DKD_HOME, else the user's data folder.",
        ),
    ] = None,
    no_dashboard: Annotated[bool, typer.Option("--no-dashboard", help="Start only the backend and a worker.")] = False,
) -> int:
    # Imported here: the other commands need none of it.
    from client.stack import (
        HomeBusyError,
        Stack,
        StackError,
        StackOptions,
        StackStopRequested,
        StopSignals,
        embedded_plan,
    )
    from client.stack.services import missing_packages
    from common.home import Home
    from common.processors import default_cpu_slots

    options = StackOptions(
        home=Home(Path(os.path.expanduser(home)).absolute()) if home else Home.find(),
        port=port,
        dashboard_port=dashboard_port,
        slots=slots or default_cpu_slots(),
        explicit_slots=slots is not None,
        threads=threads or 0,
        dashboard=not no_dashboard,
    )
    if missing := missing_packages(dashboard=options.dashboard):
        raise exit_codes.CliExit(f"packages are missing: pip install 'dkd-lab[{','.join(missing)}]'")
    with StopSignals() as signals, Stack(options, embedded_plan(options), signals, typer.echo) as stack:
        try:
            typer.echo(f"starting on {options.home.path} …")
            stack.start()
            print_addresses(stack)
            stack.wait()
        except StackStopRequested:
            print_if_possible("stopping; running trainings write a checkpoint (Ctrl-C again: stop at once)")
            stack.stop()
            print_if_possible("stopped")
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
    page: Annotated[str, typer.Argument(help="Page to open, such as runs or compare?experiment=ID.")] = "",
    home: Annotated[
        Path | None,
        typer.Option(help="Folder of the stack; by default DKD_HOME, else the user's data folder."),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(help="Address of a dashboard with the login `address` that `dkd up` did not start."),
    ] = None,
) -> int:
    from client.stack.lock import HomeLock
    from common.home import Home
    from common.one_time_address import OneTimeAddresses

    stack_home = Home(home.expanduser().absolute()) if home else Home.find()
    holder = HomeLock(stack_home.path).holder()
    address = url or (holder.dashboard_url if holder else "")
    if not address:
        raise exit_codes.CliExit(
            f"no dashboard runs on {stack_home.path}; start one with `dkd up`, or choose another home with --home or "
            "DKD_HOME"
        )
    try:
        typer.echo(OneTimeAddresses(stack_home).address(address, page.lstrip("/")))
    except OSError as error:
        raise exit_codes.CliExit(f"{stack_home.path}: {error.strerror or error}") from None
    return exit_codes.OK


def print_addresses(stack: Stack) -> None:
    """Print the addresses of the services and the folder of their logs."""
    from client.stack.services import dashboard_login

    options = stack.options
    typer.echo(f"backend    {stack.api_url}  (API documentation: {stack.api_url}/docs)")
    if stack.dashboard_url:
        typer.echo(f"dashboard  {stack.dashboard_address()}")
        if dashboard_login() == "address":
            typer.echo("           (works once, for one browser; `dkd open` prints another address)")
    on_gpus = "" if options.explicit_slots else " (with GPUs, one on each)"
    limit = "" if options.threads else "at most "
    slots = f"{options.slots} training(s) at the same time{on_gpus}"
    typer.echo(f"worker     {slots}, {limit}{options.threads_each} CPU thread(s) each")
    typer.echo(f"logs       {stack.home.logs}")
    typer.echo("Ctrl-C stops all services.")


def print_if_possible(text: str) -> None:
    """Print a line unless the terminal has been closed."""
    try:
        typer.echo(text)
    except OSError:
        return
