"""Commands that compare methods: compare, claims, table."""

from __future__ import annotations

import difflib
from typing import Annotated, Literal

import typer
from pydantic import BaseModel
from rich.console import RenderableType

from client.cli import exit_codes
from client.cli.options import JsonFlag, parse_format, write_json
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
from client.rendering.over_images import render_over_images
from client.rendering.tables import console_for
from client.resources import TextFormat
from core.protocol.comparisons import EpochChoice
from core.protocol.over_images import ComparedOverImages

_FORMATS: tuple[Literal["text", "json"] | TextFormat, ...] = ("text", "json", "csv", "markdown", "latex")
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
    images: Annotated[
        bool,
        typer.Option(
            "--images",
            help="Also compare over the test images, by a paired bootstrap: what other test images would change for "
            "the networks as trained. With --json, print this comparison alone.",
        ),
    ] = False,
    format: FormatOption = "text",
    as_json: JsonFlag = False,
) -> int:
    """Print the result table of an experiment.

    One row per method: mean ± sd over the seeds, epochs to a share of the teacher's result, and the paired difference
    to the baseline with its 95 % t interval and exact sign-flip p. The notes below the table state the conditions and
    the conclusions that the numbers support.
    """
    output, epoch = parse_format(format, _FORMATS, as_json=as_json), _parse_which(which)
    if images:
        _refuse_beside_images(output, metric, every=every, which=epoch)
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
            if images and output == "json":
                return _print(_over_images(client, experiment, baseline), "", output)
            comparison = client.comparisons.get(
                experiment,
                baseline=baseline,
                metric=metric,
                which=epoch,
                target_share=target_share,
                target=target,
                difference=difference,
            )
            _print(comparison, render_comparison(comparison), output)
            if images:
                over_images = _over_images(client, experiment, baseline)
                typer.echo()
                _print(over_images, render_over_images(over_images), output)
        except ApiError as error:
            raise _with_similar_names(client, error, experiment) from None
    return exit_codes.OK


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
    output = parse_format(format, _FORMATS, as_json=as_json)
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
    output, epoch = parse_format(format, _FORMATS, as_json=as_json), _parse_which(which)
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


def _refuse_beside_images(output: str, metric: str | None, *, every: bool, which: EpochChoice) -> None:
    """Refuse options that have no meaning over images.

    Raises:
        CliExit: There is one.
    """
    if every or metric is not None or which != "last":
        text = "--images compares what runs kept at their end, by the metric that results are judged by; "
        raise exit_codes.CliExit(f"{text}leave --all, --metric and --which out", exit_codes.BAD_INPUT)
    if output not in ("text", "json"):
        raise exit_codes.CliExit(f"--images has no --format {output}: choose text or json", exit_codes.BAD_INPUT)


def _over_images(client: Client, experiment: list[str], baseline: str | None) -> ComparedOverImages:
    def report(reply: ComparedOverImages) -> None:
        total = reply.evaluated + reply.pending
        typer.echo(f"{reply.evaluated} of {total} runs are evaluated on the resamples of the images", err=True)

    return client.comparisons.over_images(experiment, baseline=baseline, on_progress=report)


def _print(reply: BaseModel, view: RenderableType, output: str) -> int:
    if output == "json":
        write_json(reply)
    else:
        console_for().print(view)
    return exit_codes.OK


def _print_text(text: str) -> int:
    typer.echo(text, nl=False)
    return exit_codes.OK


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
    unknown = next((name for name in names if repr(name) in str(error)), "")
    if error.status != 404 or not unknown:
        return error
    existing = [item.name for item in client.experiments.list(limit=200).items]
    similar = difflib.get_close_matches(unknown, existing, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(similar)}?" if similar else "`dkd experiments` lists them"
    return exit_codes.CliExit(f"{error}; {hint}", exit_codes.FAILED)
