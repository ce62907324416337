"""``dkd export``: writes an experiment or a run for other programs, or for repeating it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from client.address import normalize_url
from client.cli import exit_codes
from client.cli.arguments import path_of
from client.cli.targets import resolve_target
from client.client import Client
from client.errors import ClientSettingsError
from client.exporters import mlflow, parquet, report, tensorboard, wandb
from client.exporters.packages import MissingPackageError
from client.exporters.series import DownsampledError
from common.terminal import printable_json
from core.protocol.public import Experiment, ExperimentSummary, Run
from core.protocol.records import ExperimentRecord, RunRecord
from core.specs import dump_text, editable_copy

_FORMATS = ("json", "csv", "spec", "html", "parquet", "tensorboard", "wandb", "mlflow")
_IN_FOLDERS = ("parquet", "tensorboard", "wandb")


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(epilog=exit_codes.HELP)(export)


def export(
    target: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TARGET]...",
            help="An experiment's name or id, or a run's id; for html, also several experiments. Not with --all.",
        ),
    ] = None,
    format: Annotated[str, typer.Option("--format", "-f", help=f"One of {', '.join(_FORMATS)}.")] = "json",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            parser=path_of,
            metavar="PATH",
            help=f"Output file, instead of stdout; for {', '.join(_IN_FOLDERS)}, the output folder.",
        ),
    ] = None,
    to: Annotated[str | None, typer.Option("--to", help="For mlflow, the tracking server's address.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="For parquet: every experiment, also those that are archived.")
    ] = False,
) -> int:
    """Export an experiment or a run for other programs.

    json: the data needed to repeat each run: spec, fingerprint, package versions, commit with its uncommitted changes,
    hardware, and the last metrics. csv: one row per run. spec: the YAML with which `dkd submit -` creates the
    experiment again. html: a report of one or several experiments in one file, with figures. parquet: four tables with
    every point, for DuckDB and pandas. tensorboard: event files, one folder per run. wandb: offline runs, which `wandb
    sync` sends. mlflow: runs on a tracking server, each sent once.
    """
    targets = list(dict.fromkeys(target or []))
    _check_options(targets, format, out, to, everything=everything)
    with Client() as client:
        try:
            for line in _export(client, targets, format, out, to):
                typer.echo(line)
        except OSError as error:
            raise exit_codes.unwritable(f"--out {out}" if out else "stdout", error) from None
        except (MissingPackageError, mlflow.MlflowError, DownsampledError) as error:
            raise exit_codes.CliExit(str(error), exit_codes.FAILED) from None
    return exit_codes.OK


def _check_options(targets: list[str], format: str, out: Path | None, to: str | None, *, everything: bool) -> None:
    """Refuse options that do not go together.

    Raises:
        CliExit: An option has an invalid value, is missing, or does not belong to the format.
    """
    problem = ""
    if format not in _FORMATS:
        problem = f"--format {format}: must be one of {', '.join(_FORMATS)}"
    elif everything and format != "parquet":
        problem = "--all: only with --format parquet"
    elif bool(targets) == everything:
        problem = "name an experiment or a run" + (", or give --all, not both" if everything else "")
    elif len(targets) > 1 and format != "html":
        problem = f"--format {format} exports one experiment or run; only html takes several"
    elif format == "mlflow" and to is None:
        problem = "--format mlflow needs --to, such as http://127.0.0.1:5000"
    elif format in _IN_FOLDERS and out is None:
        problem = f"--format {format} needs --out with a folder"
    if problem:
        raise exit_codes.CliExit(problem, exit_codes.BAD_INPUT)
    if to is not None:
        _check_server(format, to)


def _export(client: Client, targets: list[str], format: str, out: Path | None, to: str | None) -> Iterator[str]:
    """Export, and yield a line about each part that is written elsewhere than to stdout."""
    if not targets:
        assert out is not None
        yield from _parquet(client, client.experiments.iterate(archived="include"), out)
        return
    resolved, *others = (resolve_target(client, target) for target in targets)
    if format == "html":
        ids = dict.fromkeys(_experiment_id(item) for item in (resolved, *others))
        _write(report.build(client, *ids), out)
        return
    if format == "parquet" and out is not None:
        yield from _parquet(client, [client.experiments.get(_experiment_id(resolved))], out)
    elif format == "tensorboard" and out is not None:
        for run in _records(client, resolved)[1]:
            yield str(tensorboard.write(client, run, out))
    elif format == "wandb" and out is not None:
        yield from wandb.write(client, *_records(client, resolved), out)
    elif format == "mlflow" and to is not None:
        record, runs = _records(client, resolved)
        with mlflow.TrackingServer(to) as server:
            yield from mlflow.send_all(client, server, record, runs)
    else:
        _write(_to_text(client, resolved, format), out)


def _experiment_id(resolved: Experiment | Run) -> str:
    """Return the id of an experiment.

    Raises:
        CliExit: The argument is a run, not an experiment.
    """
    if isinstance(resolved, Run):
        raise exit_codes.CliExit("this format is for whole experiments; name an experiment", exit_codes.BAD_INPUT)
    return resolved.id


def _parquet(client: Client, experiments: Iterable[ExperimentSummary], folder: Path) -> Iterator[str]:
    for name, count in parquet.write(client, experiments, folder).items():
        yield f"{folder / f'{name}.parquet'}: {count:,} rows"


def _check_server(format: str, to: str) -> None:
    """Check the value of --to.

    Raises:
        CliExit: The format does not use --to, or the value is not an address.
    """
    if format != "mlflow":
        raise exit_codes.CliExit(f"--to {to}: only with --format mlflow", exit_codes.BAD_INPUT)
    try:
        normalize_url(to)
    except ClientSettingsError as error:
        raise exit_codes.CliExit(f"--to {error}", exit_codes.BAD_INPUT) from None


def _to_text(client: Client, resolved: Experiment | Run, format: str) -> str:
    if format == "csv":
        if isinstance(resolved, Run):
            message = "csv has one row per run of an experiment; name an experiment"
            raise exit_codes.CliExit(message, exit_codes.BAD_INPUT)
        return client.experiments.csv(resolved.id)
    if format == "json":
        group = client.runs if isinstance(resolved, Run) else client.experiments
        return printable_json(group.record(resolved.id).model_dump_json(indent=2)) + "\n"
    if isinstance(resolved, Run):
        spec = client.runs.record(resolved.id).repeat
        if spec is None:
            message = "a teacher has no spec of its own; export one of its students, whose spec contains it"
            raise exit_codes.CliExit(message, exit_codes.BAD_INPUT)
    else:
        spec = editable_copy(resolved.spec)
    return dump_text(spec, width=100)


def _records(client: Client, resolved: Experiment | Run) -> tuple[ExperimentRecord, list[RunRecord]]:
    """Return the experiment's record and the records of its selected runs."""
    if isinstance(resolved, Experiment):
        record = client.experiments.record(resolved.id)
        return record, record.runs
    record = client.experiments.record(resolved.experiment_id)
    return record, [run for run in record.runs if run.run_id == resolved.id]


def _write(text: str, out: Path | None) -> None:
    if out is None:
        typer.echo(text, nl=False)
    else:
        out.write_text(text, encoding="utf-8")
        typer.echo(f"written to {out}", err=True)
