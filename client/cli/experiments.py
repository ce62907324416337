"""Commands about experiments: preview, submit, watch, compare, and the list of them."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from client.cli import exit_codes
from client.cli.options import JsonFlag, SetOption, SpecArgument, at_least_one, connected, read_spec, write_json
from client.cli.targets import find
from client.client import Client
from client.errors import ApiError
from client.progress import Snapshot, ended_text
from client.rendering.comparisons import render_comparison
from client.rendering.tables import console_for, experiments_table, render_preview
from core.protocol.public import Experiment


def register(app: typer.Typer) -> None:
    app.command(epilog=exit_codes.HELP)(submit)
    app.command(epilog=exit_codes.HELP)(preview)
    app.command(name="watch", epilog=exit_codes.HELP)(watch_command)
    app.command(name="experiments", epilog=exit_codes.HELP)(list_experiments)


def submit(
    spec: SpecArgument,
    follow: Annotated[bool, typer.Option("--watch", "-w", help="Show progress to the end, then the result.")] = False,
    changes: SetOption = None,
    as_json: JsonFlag = False,
) -> int:
    """Make an experiment of a spec and queue its runs.

    The spec is validated here first, so that a mistake is named at once, with no backend needed.
    """
    made = read_spec(spec, changes or [])
    with connected() as client:
        experiment = client.submit(made)
        for note in experiment.warnings:
            typer.echo(f"note: {note.path}: {note.message}", err=True)
        if not follow:
            if as_json:
                write_json(experiment)
            else:
                say_submitted(experiment)
            return exit_codes.OK
        if not as_json:
            say_submitted(experiment)
        return follow_experiment(client, experiment.id, as_json=as_json)


def preview(spec: SpecArgument, changes: SetOption = None, as_json: JsonFlag = False) -> int:
    """Show the runs that a spec would make.

    Nothing is made. What one should know before running it is shown too.
    """
    made = read_spec(spec, changes or [])
    with connected() as client:
        found = client.preview(made)
    if as_json:
        write_json(found)
    else:
        console_for().print(render_preview(found))
    return exit_codes.OK


def watch_command(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="An experiment's name or id, or a run's id.")],
    as_json: JsonFlag = False,
) -> int:
    """Follow an experiment or a run to its end. Ctrl-C ends the watching, not the training.

    Exit code 0 where every run succeeded, else 1.
    """
    with connected() as client:
        found = find(client, target)
        if isinstance(found, Experiment):
            return follow_experiment(client, found.id, as_json=as_json)
        progress = console_for(sys.stderr) if as_json else console_for()
        seen = client.runs.watch(found.id, progress, tick=exit_codes.end_unread)
        if as_json:
            write_json(client.run(found.id))
        else:
            console_for().print(ended_text(seen.runs[0]))
    return verdict(seen)


def list_experiments(
    text: Annotated[str | None, typer.Argument(help="Keep those whose name contains it.")] = None,
    state: Annotated[
        list[str] | None, typer.Option("--state", "-s", help="active, finished, failed or cancelled.")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", "-t", help="One that it must have.")] = None,
    by: Annotated[str | None, typer.Option(help="Name of the token that it was submitted with.")] = None,
    archived: Annotated[bool, typer.Option("--archived", help="Only what was archived.")] = False,
    limit: Annotated[int, typer.Option(help="How many at most, newest first.")] = 50,
    as_json: JsonFlag = False,
) -> int:
    """List experiments, newest first."""
    with connected() as client:
        page = client.experiments(
            limit=at_least_one(limit),
            text=text,
            state=state,
            tag=tag,
            submitted_by=by,
            archived="only" if archived else None,
        )
    if as_json:
        write_json(page)
    elif page.items:
        console_for().print(experiments_table(page.items))
    else:
        typer.echo("no experiments yet" if text is None else f"no experiment contains {text!r}")
    return exit_codes.OK


def say_submitted(experiment: Experiment) -> None:
    """One line: what was made, and how to follow it."""
    count = len(experiment.runs)
    typer.echo(f"{experiment.name}: {count} run(s) queued, id {experiment.id}; follow with `dkd watch {experiment.id}`")


def follow_experiment(client: Client, experiment: str, *, as_json: bool) -> int:
    """Watch to the end, then print the result. With JSON, progress goes to stderr and the experiment to stdout."""
    progress = console_for(sys.stderr) if as_json else console_for()
    try:
        seen = client.experiments.watch(experiment, progress, tick=exit_codes.end_unread)
    except KeyboardInterrupt:
        typer.echo(f"the runs go on; `dkd watch {experiment}` follows, `dkd cancel {experiment}` ends them", err=True)
        raise
    if as_json:
        write_json(client.experiment(experiment))
    else:
        show_result(client, experiment)
    return verdict(seen)


def show_result(client: Client, experiment: str) -> None:
    """The result table, where there is anything to compare."""
    try:
        found = client.comparison(experiment)
    except ApiError as error:
        if error.status >= 500:
            raise
        typer.echo(f"no comparison: {error}", err=True)
        return
    console = console_for()
    console.print()
    console.print(render_comparison(found))


def verdict(seen: Snapshot) -> int:
    """0 where every run succeeded; else 1, each other run named on stderr."""
    others = [run for run in seen.runs if run.state != "succeeded"]
    for run in others:
        typer.echo(f"dkd: {ended_text(run).plain.removeprefix('✗ ')}; `dkd show {run.id}` says more", err=True)
    return exit_codes.FAILED if others else exit_codes.OK
