"""Commands about runs: list, show, logs, and what is done to them, of which most may name an experiment instead."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Annotated

import typer
from pydantic import BaseModel, Field

from client.cli import exit_codes
from client.cli.options import JsonFlag, at_least_one, connected, write_json
from client.cli.targets import find, one_run
from client.client import Client
from client.rendering.tables import console_for, render_experiment, render_run, runs_table
from common.terminal import printable_json
from core.protocol.public import TERMINAL, Experiment, LogLine, Run, RunPage, RunSummary

_PAGE = 200
_PAUSING = "being paused"
_STATES = ("waiting", "queued", "paused", "running", "cancelling", "succeeded", "failed", "cancelled")

Target = Annotated[str, typer.Argument(metavar="TARGET", help="A run's id, or an experiment's name or id.")]

Targets = Annotated[list[str], typer.Argument(metavar="TARGET...", help="Runs' ids, or experiments' names or ids.")]


class Changed(BaseModel):
    """What a command on several runs has done, for ``--json``."""

    runs: list[RunSummary] = Field(default_factory=list)


def register(app: typer.Typer) -> None:
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
        typer.Option("--state", "-s", help=f"One of {', '.join(_STATES)}. May be given several times."),
    ] = None,
    experiment: Annotated[str | None, typer.Option("--experiment", "-e", help="Its name or id.")] = None,
    method: Annotated[str | None, typer.Option("--method", "-m", help="The method's name, as dkd_align.")] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", "-d", help="The data set's name.")] = None,
    model: Annotated[str | None, typer.Option(help="The network's name.")] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", "-t", help="A tag of its experiment.")] = None,
    text: Annotated[str | None, typer.Option(help="Part of a name or reason.")] = None,
    sweep: Annotated[str | None, typer.Option(help="Name of the sweep that it is of.")] = None,
    after: Annotated[str | None, typer.Option(help="Made then or later, as 2025-03-01.")] = None,
    sort: Annotated[
        str | None, typer.Option(help="created, started, ended, priority or top1; -top1 has the best first.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", help="How many at most.")] = 50,
    as_json: JsonFlag = False,
) -> int:
    """List runs, newest first unless sorted otherwise."""
    for name in state or []:
        if name not in _STATES:
            raise exit_codes.CliExit(f"--state {name}: one of {', '.join(_STATES)}", exit_codes.BAD_INPUT)
    wanted = at_least_one(limit)
    found: list[RunSummary] = []
    cursor: str | None = None
    with connected() as client:
        while True:
            size = min(_PAGE, wanted - len(found))
            page = client.runs(
                state=state,
                experiment=experiment,
                method=method,
                dataset=dataset,
                model=model,
                tag=tag,
                text=text,
                sweep=sweep,
                created_after=after,
                sort=sort,
                cursor=cursor,
                limit=size,
            )
            found.extend(page.items)
            cursor = page.next_cursor
            if cursor is None or len(found) >= wanted:
                break
    if as_json:
        write_json(RunPage(items=found, next_cursor=cursor))
    elif found:
        console_for().print(runs_table(found, with_experiment=experiment is None))
        if cursor is not None:
            typer.echo(f"the newest {len(found)}; --limit shows more", err=True)
    else:
        typer.echo(
            "no runs"
            if any((state, experiment, method, dataset, model, tag, text, sweep, after))
            else "no runs yet; `dkd submit SPEC.yaml` makes some"
        )
    return exit_codes.OK


def show(target: Target, as_json: JsonFlag = False) -> int:
    """Show a run or an experiment.

    Of a run: what it trains, its tries, why it failed. Of an experiment: its runs.
    """
    with connected() as client:
        found = find(client, target)
    if as_json:
        write_json(found)
    else:
        console_for().print(render_experiment(found) if isinstance(found, Experiment) else render_run(found))
    return exit_codes.OK


def logs(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's id.")],
    tail: Annotated[int | None, typer.Option("--tail", "-n", min=1, help="Only the last lines.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run has ended.")] = False,
    as_json: JsonFlag = False,
) -> int:
    """Print a run's log. With --json, one JSON object a line."""
    with connected() as client:
        found = one_run(client, run)
        after = 0
        if tail is not None:
            lines = client.logs(found.id, tail=tail).lines
            _write(lines, as_json)
            after = lines[-1].number if lines else 0
            if not follow:
                return exit_codes.OK
        while True:
            # The state is asked for before the lines: what is written after a run's last state is then not missed.
            ended = not follow or client.run(found.id).state in TERMINAL
            after = _write_from(client, found.id, after, as_json)
            if ended:
                return exit_codes.OK
            exit_codes.end_unread()
            time.sleep(1.0)


def cancel(targets: Targets, as_json: JsonFlag = False) -> int:
    """End runs, or all runs of an experiment.

    What has ended already stays as it is; doing it twice is harmless.
    """
    with connected() as client:
        return _change(client, targets, as_json, client.cancel, client.cancel_experiment)


def pause(targets: Targets, as_json: JsonFlag = False) -> int:
    """Pause runs, or all runs of an experiment.

    What trains writes a checkpoint and leaves its slot; what has ended stays as it is. A teacher goes on where another
    experiment waits for it.
    """
    with connected() as client:
        return _change(client, targets, as_json, client.pause, client.pause_experiment)


def resume(targets: Targets, as_json: JsonFlag = False) -> int:
    """Let paused runs go on, or all paused runs of an experiment.

    Each goes on from its checkpoint.
    """
    with connected() as client:
        return _change(client, targets, as_json, client.resume, client.resume_experiment)


def priority(
    number: Annotated[
        int, typer.Argument(metavar="PRIORITY", min=-100, max=100, help="Higher runs first; 0 is usual.")
    ],
    targets: Targets,
    as_json: JsonFlag = False,
) -> int:
    """Change the priority of runs, or of all runs of an experiment.

    It decides who is taken next; what trains goes on. A teacher has the highest priority of the runs that wait for it.
    """
    with connected() as client:
        return _change(
            client,
            targets,
            as_json,
            lambda run: client.prioritise(run, number),
            lambda experiment: client.prioritise_experiment(experiment, number),
        )


def _change(
    client: Client,
    targets: list[str],
    as_json: bool,
    change_run: Callable[[str], Run],
    change_experiment: Callable[[str], Experiment],
) -> int:
    changed: list[RunSummary] = []
    for target in targets:
        found = find(client, target)
        if isinstance(found, Experiment):
            after = change_experiment(found.id)
            changed.extend(after.runs)
            _say(as_json, f"{after.name}: {_counts(after.runs)}")
        else:
            run = change_run(found.id)
            changed.append(run)
            _say(as_json, f"{run.id} ({run.label} seed {run.seed}): {_state(run)}")
    if as_json:
        write_json(Changed(runs=changed))
    return exit_codes.OK


def retry(targets: Targets, as_json: JsonFlag = False) -> int:
    """Queue failed or cancelled runs again.

    Of an experiment, all such runs.
    """
    changed: list[Run] = []
    with connected() as client:
        for target in targets:
            found = find(client, target)
            if isinstance(found, Run):
                changed.append(client.retry(found.id))
            else:
                # The teacher comes first in the list: reviving it revives the students that failed with it.
                again = [run for run in found.runs if run.state in ("failed", "cancelled")]
                if not again:
                    _say(as_json, f"{found.name}: nothing has failed or been cancelled")
                changed.extend(client.retry(run.id) for run in again)
    for run in changed:
        _say(as_json, f"{run.id} ({run.label} seed {run.seed}): {run.state}")
    if as_json:
        write_json(Changed(runs=list(changed)))
    return exit_codes.OK


def _write_from(client: Client, run_id: str, after: int, as_json: bool) -> int:
    while lines := client.logs(run_id, after=after).lines:
        _write(lines, as_json)
        after = lines[-1].number
    return after


def _write(lines: list[LogLine], as_json: bool) -> None:
    for line in lines:
        if as_json:
            typer.echo(printable_json(line.model_dump_json()))
        else:
            stamp = line.time.astimezone().strftime("%H:%M:%S")
            level = "" if line.level == "info" else f"{line.level}: "
            typer.echo(f"{stamp}  {level}{line.message}")


def _counts(runs: list[RunSummary]) -> str:
    states = Counter(map(_state, runs))
    return ", ".join(f"{states[state]} {state}" for state in (*_STATES, _PAUSING) if states[state])


def _state(run: RunSummary) -> str:
    return _PAUSING if run.pausing else run.state


def _say(as_json: bool, text: str) -> None:
    if not as_json:
        typer.echo(text)
