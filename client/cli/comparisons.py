"""Commands that put methods side by side: compare, claims, table."""

from __future__ import annotations

import difflib
from typing import Annotated, Literal

import typer
from pydantic import BaseModel
from rich.console import RenderableType

from client.cli import exit_codes
from client.cli.options import JsonFlag, connected, write_json
from client.client import Client
from client.connection import Query
from client.errors import ApiError
from client.rendering.comparisons import (
    missing_run_commands,
    render_claims,
    render_comparison,
    render_overview,
    render_table,
)
from client.rendering.tables import console_for
from client.resources import TextFormat
from core.protocol.comparisons import Which

_FORMATS = ("text", "json", "csv", "markdown", "latex")
_WHICH: dict[str, Which] = {"last": "last", "best-val": "best_val", "oracle": "oracle"}
_TESTS: dict[str, Literal["sign_flip", "t"]] = {"sign-flip": "sign_flip", "t": "t"}

Experiments = Annotated[
    list[str],
    typer.Argument(
        metavar="EXPERIMENT...",
        help="Its name or id. Several are read as one: they may differ in their seeds, and their teachers', alone.",
    ),
]
BaselineOption = Annotated[str | None, typer.Option(help="Label of the method to compare with; else the spec's first.")]
MetricOption = Annotated[str, typer.Option(help="What is compared; `dkd catalog metrics` lists them.")]
WhichOption = Annotated[
    str,
    typer.Option(
        help="At which epoch: last; best-val, by validation; oracle, the best test epoch, shown and never tested."
    ),
]
ShareOption = Annotated[float, typer.Option(help="Of the teacher's accuracy, that convergence is measured to.")]
TargetOption = Annotated[float | None, typer.Option(help="Instead: an accuracy in %.")]
FormatOption = Annotated[str, typer.Option("--format", "-f", help=f"One of {', '.join(_FORMATS)}.")]


def register(app: typer.Typer) -> None:
    app.command(epilog=exit_codes.HELP)(compare)
    app.command(epilog=exit_codes.HELP)(claims)
    app.command(epilog=exit_codes.HELP)(table)


def compare(
    experiment: Experiments,
    baseline: BaselineOption = None,
    metric: MetricOption = "test/top1",
    which: WhichOption = "last",
    target_share: ShareOption = 0.95,
    target: TargetOption = None,
    difference: Annotated[
        float | None,
        typer.Option(help="That you want to be able to see, in the metric's unit: how many seeds would it take?"),
    ] = None,
    every: Annotated[
        bool,
        typer.Option("--all", help="Every metric instead: accuracy, fidelity, calibration, collapse, robustness."),
    ] = False,
    format: FormatOption = "text",
    as_json: JsonFlag = False,
) -> int:
    """Print the result table of an experiment.

    A row a method: mean ± sd over the seeds, epochs to a share of the teacher's accuracy, paired difference to the
    baseline with its 95 % t interval and exact sign-flip p. Below it, what the numbers hold for and what they allow
    one to say.
    """
    kind, epoch = _format(format, as_json=as_json), _which(which)
    query: Query = {
        "experiment": experiment,
        "baseline": baseline,
        "metric": metric,
        "which": epoch,
        "target_share": target_share,
        "target": target,
        "difference": difference,
    }
    with connected() as client:
        try:
            if kind != "text" and kind != "json":
                return _write(client.comparison_text("overview" if every else "comparison", kind, query))
            if every:
                overview = client.overview(experiment, baseline=baseline, which=epoch)
                return _show(overview, render_overview(overview), kind)
            found = client.comparison(
                experiment,
                baseline=baseline,
                metric=metric,
                which=epoch,
                target_share=target_share,
                target=target,
                difference=difference,
            )
        except ApiError as error:
            raise _nearest(client, error, experiment) from None
    return _show(found, render_comparison(found), kind)


def claims(
    experiment: Experiments,
    baseline: Annotated[str | None, typer.Option(help="Label of the DKD method; else the first one.")] = None,
    target_share: ShareOption = 0.95,
    target: TargetOption = None,
    difference: Annotated[
        float | None,
        typer.Option(help="For claim 5: the gain, in points, that would count as one. It is then excluded or not."),
    ] = None,
    format: FormatOption = "text",
    as_json: JsonFlag = False,
) -> int:
    """Judge the author's five claims by an experiment.

    Each holds, does not hold, or cannot be told, with the numbers, n and the reason. Two are about the loss itself;
    three need DKD and DKD-Align trained on the same seeds.
    """
    kind = _format(format, as_json=as_json)
    query: Query = {
        "experiment": experiment,
        "baseline": baseline,
        "target_share": target_share,
        "target": target,
        "difference": difference,
    }
    with connected() as client:
        try:
            if kind != "text" and kind != "json":
                return _write(client.comparison_text("claims", kind, query))
            found = client.claims(
                experiment, baseline=baseline, target_share=target_share, target=target, difference=difference
            )
        except ApiError as error:
            raise _nearest(client, error, experiment) from None
    return _show(found, render_claims(found), kind)


def table(
    experiment: Annotated[
        list[str] | None,
        typer.Argument(metavar="[EXPERIMENT]...", help="Names or ids; left out, all that the filters keep."),
    ] = None,
    tag: Annotated[list[str] | None, typer.Option(help="An experiment needs every one that is given.")] = None,
    dataset: Annotated[str | None, typer.Option(help="The data set's name.")] = None,
    teacher: Annotated[str | None, typer.Option(help="The teacher's model.")] = None,
    student: Annotated[str | None, typer.Option(help="The student's model.")] = None,
    metric: MetricOption = "test/top1",
    which: WhichOption = "last",
    baseline: Annotated[
        str | None,
        typer.Option(
            help="Label of the column that others are tested against; else every row's first, or the most frequent."
        ),
    ] = None,
    test: Annotated[
        str, typer.Option(help="What decides on bold: sign-flip, exact; or t, which assumes normal differences.")
    ] = "sign-flip",
    seeds: Annotated[
        str | None, typer.Option(help="That every cell should have, as 0-4 or 0,1,2: the missing are listed.")
    ] = None,
    format: FormatOption = "text",
    as_json: JsonFlag = False,
) -> int:
    """Print the paper's table over many experiments.

    Rows dataset teacher→student, columns methods, cells mean ± sd (n). Bold only where the paired test supports it
    after Holm over the whole table. Missing seeds are listed with the command that would queue them.
    """
    kind, epoch = _format(format, as_json=as_json), _which(which)
    if test not in _TESTS:
        raise exit_codes.CliExit(f"--test {test}: one of {', '.join(_TESTS)}", exit_codes.BAD_INPUT)
    wanted = _seeds(seeds) if seeds is not None else []
    query: Query = {
        "experiment": experiment or [],
        "tag": tag or [],
        "dataset": dataset,
        "teacher": teacher,
        "student": student,
        "metric": metric,
        "which": epoch,
        "baseline": baseline,
        "test": _TESTS[test],
        "seed": wanted,
    }
    with connected() as client:
        try:
            if kind != "text" and kind != "json":
                return _write(client.comparison_text("table", kind, query))
            found = client.table(
                experiment or [],
                tags=tag or [],
                dataset=dataset,
                teacher=teacher,
                student=student,
                metric=metric,
                which=epoch,
                baseline=baseline,
                test=_TESTS[test],
                seeds=wanted,
            )
        except ApiError as error:
            raise _nearest(client, error, experiment or []) from None
    if not found.rows and kind == "text":
        typer.echo("no experiment is kept by these filters; `dkd experiments` lists all", err=True)
        return exit_codes.OK
    _show(found, render_table(found), kind)
    commands = missing_run_commands(found)
    if kind == "text" and commands:
        typer.echo("\nTo queue what is missing:")
        for command in commands:
            typer.echo(command)
    return exit_codes.OK


def _show(found: BaseModel, view: RenderableType, kind: str) -> int:
    if kind == "json":
        write_json(found)
    else:
        console_for().print(view)
    return exit_codes.OK


def _write(text: str) -> int:
    typer.echo(text, nl=False)
    return exit_codes.OK


def _format(format: str, *, as_json: bool) -> Literal["text", "json"] | TextFormat:
    """The format that is asked for. Raises Stop for another, and where --json says otherwise."""
    if as_json and format not in ("text", "json"):
        raise exit_codes.CliExit(f"--json and --format {format} say different things", exit_codes.BAD_INPUT)
    match "json" if as_json else format:
        case "text" | "json" | "csv" | "markdown" | "latex" as known:
            return known
    raise exit_codes.CliExit(f"--format {format}: one of {', '.join(_FORMATS)}", exit_codes.BAD_INPUT)


def _which(which: str) -> Which:
    try:
        return _WHICH[which.replace("_", "-")]
    except KeyError:
        raise exit_codes.CliExit(f"--which {which}: one of {', '.join(_WHICH)}", exit_codes.BAD_INPUT) from None


def _seeds(text: str) -> list[int]:
    """As "0-2,5". Raises Stop where it is no such list."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise exit_codes.CliExit(f"--seeds {text}: as 0-4 or 0,1,2", exit_codes.BAD_INPUT)
        found += range(int(first), int(last or first) + 1)
        if len(found) > 1000:
            raise exit_codes.CliExit(f"--seeds {text}: at most 1,000", exit_codes.BAD_INPUT)
    return list(dict.fromkeys(found))


def _nearest(client: Client, error: ApiError, named: list[str]) -> Exception:
    """For a name that is nobody's, the same refusal with names like it."""
    if error.status != 404:
        return error
    known = [item.name for item in client.experiments(limit=200).items]
    lost = next((name for name in named if repr(name) in str(error)), "")
    close = difflib.get_close_matches(lost, known, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(close)}?" if close else "`dkd experiments` lists them"
    return exit_codes.CliExit(f"{error}; {hint}", exit_codes.FAILED)
