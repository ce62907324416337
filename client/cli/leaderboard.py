"""``dkd leaderboard``: methods ranked over settings, on the terminal or frozen as a file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated, Literal

import typer

from client.cli import exit_codes
from client.cli.arguments import path_of
from client.cli.options import JsonFlag, parse_format
from client.client import Client
from client.rendering.leaderboards import render_leaderboard
from client.rendering.tables import console_for
from client.resources import LeaderboardTextFormat
from common.atomic_write import atomic_write
from common.terminal import printable_json

_FORMATS: tuple[Literal["table", "json"] | LeaderboardTextFormat, ...] = (
    "table",
    "json",
    "csv",
    "markdown",
    "latex",
    "html",
)


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(epilog=exit_codes.HELP)(leaderboard)


def leaderboard(
    experiment: Annotated[
        list[str] | None,
        typer.Argument(metavar="[EXPERIMENT]...", help="Names or ids; by default all that match the filters."),
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option(help="A tag of the experiments. Can be repeated: all must match.")
    ] = None,
    more: Annotated[
        list[str] | None, typer.Option("--experiment", help="Name or id of an experiment. Can be repeated.")
    ] = None,
    sweep: Annotated[str | None, typer.Option(help="Name of a sweep whose experiments are ranked.")] = None,
    task: Annotated[
        str | None,
        typer.Option(help="Name of the task, such as classification or detection; a leaderboard is of one task."),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(help="Method that the others are compared with; by default the one of most settings."),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(help="Method to leave out, so that more settings have all others. Can be repeated."),
    ] = None,
    format: Annotated[str, typer.Option("--format", "-f", help=f"One of {', '.join(_FORMATS)}.")] = "table",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", parser=path_of, metavar="FILE", help="Output file, instead of stdout."),
    ] = None,
    as_json: JsonFlag = False,
) -> int:
    """Rank methods over settings, by the value after the last epoch.

    A setting is a data set, a teacher, a student and a training: a column. A row is a method with its mean rank over
    the settings that have all methods over common seeds. ★ is the best mean of a setting; ▲ and ▼ are better and worse
    than the baseline after Holm's correction over the whole leaderboard. html writes one page with figures and
    provenance that opens without a backend.
    """
    output = parse_format(format, _FORMATS, as_json=as_json)
    named = [*(experiment or []), *(more or [])]
    tags, left_out = tag or [], without or []
    with Client() as client:
        calls = client.comparisons
        if output != "table" and output != "json":
            text = calls.leaderboard_text(
                output, named, tags=tags, sweep=sweep, task=task, baseline=baseline, without=left_out
            )
            return _write(text, out)
        board = calls.leaderboard(named, tags=tags, sweep=sweep, task=task, baseline=baseline, without=left_out)
    if output == "json":
        return _write(f"{printable_json(board.model_dump_json(indent=2))}\n", out)
    buffer = io.StringIO()
    console_for(buffer if out else None).print(render_leaderboard(board))
    return _write(buffer.getvalue(), out) if out else exit_codes.OK


def _write(text: str, out: Path | None) -> int:
    """Write the text to a file, whole or not at all, or to stdout.

    Raises:
        CliExit: The file cannot be written.
    """
    if out is None:
        typer.echo(text, nl=False)
        return exit_codes.OK
    try:
        atomic_write(out, text)
    except OSError as error:
        raise exit_codes.unwritable(f"--out {out}", error) from None
    typer.echo(f"written to {out}", err=True)
    return exit_codes.OK
