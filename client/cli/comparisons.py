"""Commands that compare methods: compare, claims, table."""

from __future__ import annotations

import difflib
from typing import Annotated, Literal

import typer
from pydantic import BaseModel
from rich.console import RenderableType

from client.cli import exit_codes
from client.cli.options import JsonFlag, write_json
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
from core.protocol.comparisons import EpochChoice

_FORMATS = ("text", "json", "csv", "markdown", "latex")
_WHICH: dict[str, EpochChoice] = {"last": "last", "best-val": "best_val", "oracle": "oracle"}
_TESTS: dict[str, Literal["sign_flip", "t"]] = {"sign-flip": "sign_flip", "t": "t"}
_MAX_SEEDS = 1000

Experiments = Annotated[
    list[str],
    typer.Argument(
        metavar="EXPERIMENT...",
        help="Names or ids. Several experiments are evaluated as one; they may differ only in their seeds and their "
        "teachers' seeds.",
    ),
]
BaselineOption = Annotated[
    str | None, typer.Option(help="Label of the method to compare with; by default the spec's first.")
]
MetricOption = Annotated[
    str | None,
    typer.Option(
        help="The metric to compare; `dkd catalog metrics` lists them. By default the one by which the task is judged, "
        "such as test/top1."
    ),
]
WhichOption = Annotated[
    str,
    typer.Option(
        help="The epoch to compare: last; best-val, the best by validation; oracle, the best on the test images, "
        "which is shown but never tested."
    ),
]
ShareOption = Annotated[
    float, typer.Option(help="Share of the teacher's result that counts as convergence, such as 0.95.")
]
TargetOption = Annotated[
    float | None,
    typer.Option(
        help="Value of the metric by which the task is judged, such as an accuracy in %, that counts as convergence, "
        "instead of --target-share."
    ),
]
FormatOption = Annotated[str, typer.Option("--format", "-f", help=f"One of {', '.join(_FORMATS)}.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(epilog=exit_codes.HELP)(compare)
    app.command(epilog=exit_codes.HELP)(claims)
    app.command(epilog=exit_codes.HELP)(table)


def compare(
    experiment: Experiments,
    baseline: BaselineOption = None,
    metric: MetricOption = None,
    which: WhichOption = "last",
    target_share: ShareOption = 0.95,
    target: TargetOption = None,
    difference: Annotated[
        float | None,
        typer.Option(help="A difference of interest, in the metric's unit: prints how many seeds would detect it."),
    ] = None,
    every: Annotated[
        bool,
        typer.Option("--all", help="Compare every metric: results, fidelity, calibration, collapse, robustness."),
    ] = False,
    format: FormatOption = "text",
    as_json: JsonFlag = False,
) -> int:
    """Print the result table of an experiment.

    One row per method: mean ± sd over the seeds, epochs to a share of the teacher's result, and the paired difference
    to the baseline with its 95 % t interval and exact sign-flip p. The notes below the table state the conditions and
    the conclusions that the numbers support.
    """
    output, epoch = _parse_format(format, as_json=as_json), _parse_which(which)
    query: Query = {
        "experiment": experiment,
        "baseline": baseline,
        "metric": metric,
        "which": epoch,
        "target_share": target_share,
        "target": target,
        "difference": difference,
    }
    with Client() as client:
        try:
            if output != "text" and output != "json":
                return _print_text(client.comparisons.text("overview" if every else "comparison", output, query))
            if every:
                overview = client.comparisons.overview(experiment, baseline=baseline, which=epoch)
                return _print(overview, render_overview(overview), output)
            comparison = client.comparisons.get(
                experiment,
                baseline=baseline,
                metric=metric,
                which=epoch,
                target_share=target_share,
                target=target,
                difference=difference,
            )
        except ApiError as error:
            raise _with_similar_names(client, error, experiment) from None
    return _print(comparison, render_comparison(comparison), output)


def claims(
    experiment: Experiments,
    baseline: Annotated[str | None, typer.Option(help="Label of the DKD method; by default the first one.")] = None,
    target_share: ShareOption = 0.95,
    target: TargetOption = None,
    difference: Annotated[
        float | None,
        typer.Option(help="For claim 5, the gain in points that matters: prints whether the data exclude it."),
    ] = None,
    format: FormatOption = "text",
    as_json: JsonFlag = False,
) -> int:
    """Test the five claims of a paper on an experiment.

    The paper is Decoupled Gradient Knowledge Distillation (2025). Each verdict is "holds", "does not hold" or "cannot
    tell", with the numbers, n and the reason. Two claims concern the loss itself; three need DKD and DKD-Align trained
    on the same seeds.
    """
    output = _parse_format(format, as_json=as_json)
    query: Query = {
        "experiment": experiment,
        "baseline": baseline,
        "target_share": target_share,
        "target": target,
        "difference": difference,
    }
    with Client() as client:
        try:
            if output != "text" and output != "json":
                return _print_text(client.comparisons.text("claims", output, query))
            reply = client.comparisons.claims(
                experiment, baseline=baseline, target_share=target_share, target=target, difference=difference
            )
        except ApiError as error:
            raise _with_similar_names(client, error, experiment) from None
    return _print(reply, render_claims(reply), output)


def table(
    experiment: Annotated[
        list[str] | None,
        typer.Argument(metavar="[EXPERIMENT]...", help="Names or ids; by default all that match the filters."),
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option(help="A tag of the experiments. Can be repeated: all must match.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Name of the data set.")] = None,
    teacher: Annotated[str | None, typer.Option(help="Model of the teacher.")] = None,
    student: Annotated[str | None, typer.Option(help="Model of the student.")] = None,
    task: Annotated[
        str | None,
        typer.Option(help="Name of the task, such as classification or detection; a table is of one task."),
    ] = None,
    metric: MetricOption = None,
    which: WhichOption = "last",
    baseline: Annotated[
        str | None,
        typer.Option(
            help="Label of the column that the others are tested against; by default each row's first method, or the "
            "most frequent one."
        ),
    ] = None,
    test: Annotated[
        str,
        typer.Option(
            help="The test that decides which cells are bold: sign-flip, which is exact, or t, which assumes normally "
            "distributed differences."
        ),
    ] = "sign-flip",
    seeds: Annotated[
        str | None, typer.Option(help="Seeds that every cell should have, such as 0-4 or 0,1,2: lists those missing.")
    ] = None,
    format: FormatOption = "text",
    as_json: JsonFlag = False,
) -> int:
    """Print a table over many experiments, as for a paper.

    One row per data set and teacher→student pair, one column per method, cells mean ± sd (n). A cell is bold only if
    the paired test supports it after Holm's correction over the whole table. Missing seeds are listed with the commands
    that queue them.
    """
    output, epoch = _parse_format(format, as_json=as_json), _parse_which(which)
    if test not in _TESTS:
        raise exit_codes.CliExit(f"--test {test}: must be one of {', '.join(_TESTS)}", exit_codes.BAD_INPUT)
    seed_numbers = _parse_seeds(seeds) if seeds is not None else []
    query: Query = {
        "experiment": experiment or [],
        "tag": tag or [],
        "dataset": dataset,
        "teacher": teacher,
        "student": student,
        "task": task,
        "metric": metric,
        "which": epoch,
        "baseline": baseline,
        "test": _TESTS[test],
        "seed": seed_numbers,
    }
    with Client() as client:
        try:
            if output != "text" and output != "json":
                return _print_text(client.comparisons.text("table", output, query))
            reply = client.comparisons.table(
                experiment or [],
                tags=tag or [],
                dataset=dataset,
                teacher=teacher,
                student=student,
                task=task,
                metric=metric,
                which=epoch,
                baseline=baseline,
                test=_TESTS[test],
                seeds=seed_numbers,
            )
        except ApiError as error:
            raise _with_similar_names(client, error, experiment or []) from None
    if not reply.rows and output == "text":
        typer.echo("no experiment matches these filters; `dkd experiments` lists all", err=True)
        return exit_codes.OK
    _print(reply, render_table(reply), output)
    commands = missing_run_commands(reply)
    if output == "text" and commands:
        typer.echo("\nTo queue the missing runs:")
        for command in commands:
            typer.echo(command)
    return exit_codes.OK


def _print(reply: BaseModel, view: RenderableType, output: str) -> int:
    if output == "json":
        write_json(reply)
    else:
        console_for().print(view)
    return exit_codes.OK


def _print_text(text: str) -> int:
    typer.echo(text, nl=False)
    return exit_codes.OK


def _parse_format(format: str, *, as_json: bool) -> Literal["text", "json"] | TextFormat:
    """Return the format that the options select.

    Raises:
        CliExit: The format is unknown, or contradicts --json.
    """
    if as_json and format not in ("text", "json"):
        raise exit_codes.CliExit(f"--json and --format {format} contradict each other", exit_codes.BAD_INPUT)
    match "json" if as_json else format:
        case "text" | "json" | "csv" | "markdown" | "latex" as valid:
            return valid
    raise exit_codes.CliExit(f"--format {format}: must be one of {', '.join(_FORMATS)}", exit_codes.BAD_INPUT)


def _parse_which(which: str) -> EpochChoice:
    try:
        return _WHICH[which.replace("_", "-")]
    except KeyError:
        raise exit_codes.CliExit(f"--which {which}: must be one of {', '.join(_WHICH)}", exit_codes.BAD_INPUT) from None


def _parse_seeds(text: str) -> list[int]:
    """Parse a list of seeds such as "0-2,5".

    Raises:
        CliExit: The text has another form, or lists too many seeds.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise exit_codes.CliExit(f"--seeds {text}: expected a list such as 0-4 or 0,1,2", exit_codes.BAD_INPUT)
        seeds += range(int(first), int(last or first) + 1)
        if len(seeds) > _MAX_SEEDS:
            raise exit_codes.CliExit(f"--seeds {text}: at most {_MAX_SEEDS:,}", exit_codes.BAD_INPUT)
    return list(dict.fromkeys(seeds))


def _with_similar_names(client: Client, error: ApiError, names: list[str]) -> Exception:
    """Return the error for an experiment that does not exist, extended by similar names; other errors unchanged."""
    if error.status != 404:
        return error
    existing = [item.name for item in client.experiments.list(limit=200).items]
    unknown = next((name for name in names if repr(name) in str(error)), "")
    similar = difflib.get_close_matches(unknown, existing, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(similar)}?" if similar else "`dkd experiments` lists them"
    return exit_codes.CliExit(f"{error}; {hint}", exit_codes.FAILED)
