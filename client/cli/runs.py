"""Commands about runs: listing, showing, logs, and changes, most of which also accept experiments."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Annotated

import typer
from pydantic import BaseModel, Field

from client.cli import exit_codes
from client.cli.options import JsonFlag, ProjectFilter, positive_limit, write_json
from client.cli.targets import resolve_run, resolve_target
from client.client import Client
from client.rendering.tables import console_for, render_experiment, render_run, runs_table
from common.terminal import printable_json
from core.protocol.metrics import LOG_LEVELS
from core.protocol.public import TERMINAL, Experiment, LogLine, Run, RunPage, RunSummary

_PAGE_SIZE = 200
_PAUSING = "being paused"
_STATES = ("waiting", "queued", "paused", "running", "cancelling", "succeeded", "failed", "cancelled")

Target = Annotated[str, typer.Argument(metavar="TARGET", help="A run's id, or an experiment's name or id.")]

Targets = Annotated[list[str], typer.Argument(metavar="TARGET...", help="Ids of runs, or names or ids of experiments.")]


class ChangedRuns(BaseModel):
    """The runs that a command changed, for ``--json``."""

    runs: list[RunSummary] = Field(default_factory=list)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(name="runs", epilog=exit_codes.HELP)(list_runs)
    app.command(epilog=exit_codes.HELP)(show)
    app.command(epilog=exit_codes.HELP)(logs)
    app.command(epilog=exit_codes.HELP)(cancel)
    app.command(epilog=exit_codes.HELP)(retry)
    app.command(epilog=exit_codes.HELP)(pause)
    app.command(epilog=exit_codes.HELP)(resume)
    app.command(epilog=exit_codes.HELP, context_settings={"ignore_unknown_options": True})(priority)


def list_runs(
    state: Annotated[
        list[str] | None,
        typer.Option("--state", "-s", help=f"One of {', '.join(_STATES)}. Can be repeated."),
    ] = None,
    experiment: Annotated[str | None, typer.Option("--experiment", "-e", help="Name or id of the experiment.")] = None,
    method: Annotated[str | None, typer.Option("--method", "-m", help="Name of the method, such as dkd_align.")] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", "-d", help="Name of the data set.")] = None,
    model: Annotated[str | None, typer.Option(help="Name of the model.")] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", "-t", help="A tag of the experiment. Can be repeated: all must match.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="Part of a name or of a reason.")] = None,
    sweep: Annotated[str | None, typer.Option(help="Name of the sweep.")] = None,
    after: Annotated[str | None, typer.Option(help="Created at this time or later, such as 2025-03-01.")] = None,
    sort: Annotated[
        str | None,
        typer.Option(help="created, started, ended, priority or headline, in descending order with a leading -."),
    ] = None,
    project: ProjectFilter = None,
    limit: Annotated[int, typer.Option("--limit", "-n", help="Maximum number of runs.")] = 50,
    as_json: JsonFlag = False,
) -> int:
    """List runs, newest first."""
    for name in state or []:
        if name not in _STATES:
            raise exit_codes.CliExit(f"--state {name}: must be one of {', '.join(_STATES)}", exit_codes.BAD_INPUT)
    count = positive_limit(limit)
    runs: list[RunSummary] = []
    cursor: str | None = None
    with Client() as client:
        while True:
            page = client.runs.list(
                state=state,
                experiment=experiment,
                method=method,
                dataset=dataset,
                model=model,
                tag=tag,
                text=text,
                sweep=sweep,
                project=project,
                created_after=after,
                sort=sort,
                cursor=cursor,
                limit=min(_PAGE_SIZE, count - len(runs)),
            )
            runs.extend(page.items)
            cursor = page.next_cursor
            if cursor is None or len(runs) >= count:
                break
    if as_json:
        write_json(RunPage(items=runs, next_cursor=cursor))
    elif runs:
        console_for().print(runs_table(runs, with_experiment=experiment is None))
        if cursor is not None:
            typer.echo(f"only the first {len(runs)}; --limit shows more", err=True)
    elif any((state, experiment, method, dataset, model, tag, text, sweep, project, after)):
        typer.echo("no run matches")
    else:
        typer.echo("no runs yet; `dkd submit SPEC.yaml` creates some")
    return exit_codes.OK


def show(target: Target, as_json: JsonFlag = False) -> int:
    """Show a run or an experiment.

    A run is shown with its settings, its attempts and the reason if it failed; an experiment with its runs.
    """
    with Client() as client:
        resolved = resolve_target(client, target)
    if as_json:
        write_json(resolved)
    else:
        view = render_experiment(resolved) if isinstance(resolved, Experiment) else render_run(resolved)
        console_for().print(view)
    return exit_codes.OK


def logs(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's id.")],
    tail: Annotated[int | None, typer.Option("--tail", "-n", min=1, help="Only this number of last lines.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Continue until the run has ended.")] = False,
    search: Annotated[str, typer.Option("--search", help="Only lines with this text, ignoring case.")] = "",
    level: Annotated[
        list[str] | None, typer.Option("--level", help="Only lines of this level. Can be repeated: any matches.")
    ] = None,
    as_json: JsonFlag = False,
) -> int:
    """Print a run's log. With --json, one JSON object per line."""
    for name in level or []:
        if name not in LOG_LEVELS:
            raise exit_codes.CliExit(f"--level {name}: must be one of {', '.join(LOG_LEVELS)}", exit_codes.BAD_INPUT)
    with Client() as client:
        run_id = resolve_run(client, run).id
        after = 0
        if tail is not None:
            lines = client.runs.logs(run_id, tail=tail, search=search, level=level).lines
            _print_lines(lines, as_json)
            after = lines[-1].number if lines else 0
            if not follow:
                return exit_codes.OK
        while True:
            # The state is read before the lines, so that lines written after the run's last state are not missed.
            ended = not follow or client.runs.get(run_id).state in TERMINAL
            after = _print_lines_after(client, run_id, after, as_json, search, level)
            if ended:
                return exit_codes.OK
            exit_codes.check_reader()
            time.sleep(1.0)


def cancel(targets: Targets, as_json: JsonFlag = False) -> int:
    """Cancel runs, or all runs of an experiment.

    Runs that have ended are not changed; repeating the command changes nothing.
    """
    with Client() as client:
        return _change(client, targets, as_json, client.runs.cancel, client.experiments.cancel)


def pause(targets: Targets, as_json: JsonFlag = False) -> int:
    """Pause runs, or all runs of an experiment.

    A run that trains writes a checkpoint and frees its slot; runs that have ended are not changed. A teacher continues
    if another experiment waits for it.
    """
    with Client() as client:
        return _change(client, targets, as_json, client.runs.pause, client.experiments.pause)


def resume(targets: Targets, as_json: JsonFlag = False) -> int:
    """Resume paused runs, or all paused runs of an experiment.

    Each continues from its checkpoint.
    """
    with Client() as client:
        return _change(client, targets, as_json, client.runs.resume, client.experiments.resume)


def priority(
    number: Annotated[
        int, typer.Argument(metavar="PRIORITY", min=-100, max=100, help="Higher runs first; the default is 0.")
    ],
    targets: Targets,
    as_json: JsonFlag = False,
) -> int:
    """Change the priority of runs, or of all runs of an experiment.

    The priority decides which run is claimed next; runs that train continue. A teacher has the highest priority of the
    runs that wait for it.
    """
    with Client() as client:
        return _change(
            client,
            targets,
            as_json,
            lambda run_id: client.runs.set_priority(run_id, number),
            lambda experiment_id: client.experiments.set_priority(experiment_id, number),
        )


def retry(targets: Targets, as_json: JsonFlag = False) -> int:
    """Queue failed or cancelled runs again.

    For an experiment, all its failed and cancelled runs.
    """
    changed: list[Run] = []
    with Client() as client:
        for target in targets:
            resolved = resolve_target(client, target)
            if isinstance(resolved, Run):
                changed.append(client.runs.retry(resolved.id))
            else:
                # The teacher is first in the list: retrying it also revives the students that failed with it.
                ended = [run for run in resolved.runs if run.state in ("failed", "cancelled")]
                if not ended:
                    _print_unless_json(as_json, f"{resolved.name}: no run has failed or been cancelled")
                changed.extend(client.runs.retry(run.id) for run in ended)
    for run in changed:
        _print_unless_json(as_json, f"{run.id} ({run.label} seed {run.seed}): {run.state}")
    if as_json:
        write_json(ChangedRuns(runs=list(changed)))
    return exit_codes.OK


def _change(
    client: Client,
    targets: list[str],
    as_json: bool,
    change_run: Callable[[str], Run],
    change_experiment: Callable[[str], Experiment],
) -> int:
    """Change runs, or all runs of experiments, print them, and return the exit code."""
    changed: list[RunSummary] = []
    for target in targets:
        resolved = resolve_target(client, target)
        if isinstance(resolved, Experiment):
            experiment = change_experiment(resolved.id)
            changed.extend(experiment.runs)
            _print_unless_json(as_json, f"{experiment.name}: {_state_counts(experiment.runs)}")
        else:
            run = change_run(resolved.id)
            changed.append(run)
            _print_unless_json(as_json, f"{run.id} ({run.label} seed {run.seed}): {_state(run)}")
    if as_json:
        write_json(ChangedRuns(runs=changed))
    return exit_codes.OK


def _print_lines_after(
    client: Client, run_id: str, after: int, as_json: bool, search: str, level: Sequence[str] | None
) -> int:
    while lines := client.runs.logs(run_id, after=after, search=search, level=level).lines:
        _print_lines(lines, as_json)
        after = lines[-1].number
    return after


def _print_lines(lines: list[LogLine], as_json: bool) -> None:
    for line in lines:
        if as_json:
            typer.echo(printable_json(line.model_dump_json()))
        else:
            time_of_day = line.time.astimezone().strftime("%H:%M:%S")
            level = "" if line.level == "info" else f"{line.level}: "
            typer.echo(f"{time_of_day}  {level}{line.message}")


def _state_counts(runs: list[RunSummary]) -> str:
    counts = Counter(map(_state, runs))
    return ", ".join(f"{counts[state]} {state}" for state in (*_STATES, _PAUSING) if counts[state])


def _state(run: RunSummary) -> str:
    return _PAUSING if run.pausing else run.state


def _print_unless_json(as_json: bool, text: str) -> None:
    if not as_json:
        typer.echo(text)
