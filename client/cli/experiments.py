"""Commands about experiments: submit, preview, watch, experiments."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from client.cli import exit_codes
from client.cli.options import (
    JsonFlag,
    ProjectFilter,
    ProjectOption,
    SetOption,
    SpecArgument,
    positive_limit,
    read_spec,
    write_json,
)
from client.cli.targets import resolve_target
from client.client import Client
from client.errors import ApiError
from client.progress import Snapshot, ended_text
from client.rendering.comparisons import render_comparison
from client.rendering.tables import console_for, experiments_table, render_preview
from core.protocol.public import Experiment


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(epilog=exit_codes.HELP)(submit)
    app.command(epilog=exit_codes.HELP)(preview)
    app.command(name="watch", epilog=exit_codes.HELP)(watch_command)
    app.command(name="experiments", epilog=exit_codes.HELP)(list_experiments)


def submit(
    spec: SpecArgument,
    follow: Annotated[
        bool, typer.Option("--watch", "-w", help="Show the progress to the end, then the result.")
    ] = False,
    changes: SetOption = None,
    project: ProjectOption = None,
    as_json: JsonFlag = False,
) -> int:
    """Create an experiment from a spec and queue its runs.

    The spec is validated before it is sent, so that mistakes are reported even without a backend.
    """
    data = read_spec(spec, changes or [])
    with Client() as client:
        experiment = client.experiments.create(data, project=project)
        for note in experiment.warnings:
            typer.echo(f"note: {note.path}: {note.message}", err=True)
        if not follow:
            if as_json:
                write_json(experiment)
            else:
                print_submitted(experiment)
            return exit_codes.OK
        if not as_json:
            print_submitted(experiment)
        return follow_experiment(client, experiment.id, as_json=as_json)


def preview(spec: SpecArgument, changes: SetOption = None, as_json: JsonFlag = False) -> int:
    """Show the runs that a spec would create.

    Warnings about the spec are shown too. Nothing is created.
    """
    data = read_spec(spec, changes or [])
    with Client() as client:
        reply = client.experiments.preview(data)
    if as_json:
        write_json(reply)
    else:
        console_for().print(render_preview(reply))
    return exit_codes.OK


def watch_command(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="An experiment's name or id, or a run's id.")],
    as_json: JsonFlag = False,
) -> int:
    """Follow an experiment or a run to its end. Ctrl-C stops watching; the training continues.

    Exit code 0 if every run succeeded, else 1.
    """
    with Client() as client:
        resolved = resolve_target(client, target)
        if isinstance(resolved, Experiment):
            return follow_experiment(client, resolved.id, as_json=as_json)
        console = console_for(sys.stderr) if as_json else console_for()
        snapshot = client.runs.watch(resolved.id, console, tick=exit_codes.check_reader)
        if as_json:
            write_json(client.runs.get(resolved.id))
        else:
            console_for().print(ended_text(snapshot.runs[0]))
    return report_failures(snapshot)


def list_experiments(
    text: Annotated[str | None, typer.Argument(help="Part of the name.")] = None,
    state: Annotated[
        list[str] | None,
        typer.Option("--state", "-s", help="active, finished, failed or cancelled. Can be repeated."),
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", "-t", help="A tag. Can be repeated: all must match.")
    ] = None,
    by: Annotated[str | None, typer.Option(help="Name of the person or token that submitted it.")] = None,
    project: ProjectFilter = None,
    archived: Annotated[bool, typer.Option("--archived", help="Only archived experiments.")] = False,
    limit: Annotated[int, typer.Option(help="Maximum number of experiments.")] = 50,
    as_json: JsonFlag = False,
) -> int:
    """List experiments, newest first."""
    with Client() as client:
        page = client.experiments.list(
            limit=positive_limit(limit),
            text=text,
            state=state,
            tag=tag,
            submitted_by=by,
            project=project,
            archived="only" if archived else None,
        )
    if as_json:
        write_json(page)
    elif page.items:
        console_for().print(experiments_table(page.items))
    else:
        typer.echo("no experiments yet" if text is None else f"no experiment's name contains {text!r}")
    return exit_codes.OK


def print_submitted(experiment: Experiment) -> None:
    """Print the created experiment, and the command that follows it."""
    count = len(experiment.runs)
    typer.echo(f"{experiment.name}: {count} run(s) queued, id {experiment.id}; follow with `dkd watch {experiment.id}`")


def follow_experiment(client: Client, experiment: str, *, as_json: bool) -> int:
    """Show the progress to the end, then the result; return the exit code.

    With JSON, the progress goes to stderr and the experiment to stdout.
    """
    console = console_for(sys.stderr) if as_json else console_for()
    try:
        snapshot = client.experiments.watch(experiment, console, tick=exit_codes.check_reader)
    except KeyboardInterrupt:
        commands = f"`dkd watch {experiment}` follows them, `dkd cancel {experiment}` cancels them"
        typer.echo(f"the runs continue; {commands}", err=True)
        raise
    if as_json:
        write_json(client.experiments.get(experiment))
    else:
        print_comparison(client, experiment)
    return report_failures(snapshot)


def print_comparison(client: Client, experiment: str) -> None:
    """Print the result table, or the reason why there is none."""
    try:
        comparison = client.comparisons.get(experiment)
    except ApiError as error:
        if error.status >= 500:
            raise
        typer.echo(f"no comparison: {error}", err=True)
        return
    console = console_for()
    console.print()
    console.print(render_comparison(comparison))


def report_failures(snapshot: Snapshot) -> int:
    """Print each run that did not succeed to stderr, and return the exit code."""
    failed = [run for run in snapshot.runs if run.state != "succeeded"]
    for run in failed:
        typer.echo(f"dkd: {ended_text(run).plain.removeprefix('✗ ')}; see `dkd show {run.id}`", err=True)
    return exit_codes.FAILED if failed else exit_codes.OK
