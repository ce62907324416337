"""``dkd export``: writes an experiment or a run for other programs, or for repeating it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from client.address import normalize_url
from client.cli import exit_codes
from client.cli.arguments import path_of
from client.cli.targets import resolve_target
from client.client import Client
from client.errors import ClientSettingsError
from client.exporters import mlflow, tensorboard
from client.exporters.series import DownsampledError
from common.terminal import printable_json
from core.protocol.public import Experiment, Run
from core.protocol.records import ExperimentRecord, RunRecord
from core.specs import dump_text, editable_copy

_FORMATS = ("json", "csv", "spec", "tensorboard", "mlflow")


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(epilog=exit_codes.HELP)(export)


def export(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="An experiment's name or id, or a run's id.")],
    format: Annotated[str, typer.Option("--format", "-f", help=f"One of {', '.join(_FORMATS)}.")] = "json",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            parser=path_of,
            metavar="PATH",
            help="Output file, instead of stdout; for tensorboard, the output folder.",
        ),
    ] = None,
    to: Annotated[str | None, typer.Option("--to", help="For mlflow, the tracking server's address.")] = None,
) -> int:
    """Export an experiment or a run for other programs.

    json: the data needed to repeat each run: spec, fingerprint, package versions, commit with its uncommitted changes,
    hardware, and the last metrics. csv: one row per run. spec: the YAML with which `dkd submit -` creates the
    experiment again. tensorboard: event files, one folder per run. mlflow: runs on a tracking server, each sent once.
    """
    if format not in _FORMATS:
        raise exit_codes.CliExit(f"--format {format}: must be one of {', '.join(_FORMATS)}", exit_codes.BAD_INPUT)
    if format == "mlflow" and to is None:
        raise exit_codes.CliExit("--format mlflow needs --to, such as http://127.0.0.1:5000", exit_codes.BAD_INPUT)
    if to is not None:
        _check_server(format, to)
    if format == "tensorboard" and out is None:
        raise exit_codes.CliExit("--format tensorboard needs --out with a folder", exit_codes.BAD_INPUT)
    with Client() as client:
        resolved = resolve_target(client, target)
        try:
            if format == "tensorboard" and out is not None:
                for run in _records(client, resolved)[1]:
                    typer.echo(str(tensorboard.write(client, run, out)))
            elif format == "mlflow" and to is not None:
                record, runs = _records(client, resolved)
                with mlflow.TrackingServer(to) as server:
                    for line in mlflow.send_all(client, server, record, runs):
                        typer.echo(line)
            else:
                _write(_to_text(client, resolved, format), out)
        except OSError as error:
            raise exit_codes.unwritable(f"--out {out}" if out else "stdout", error) from None
        except (tensorboard.MissingPackageError, mlflow.MlflowError, DownsampledError) as error:
            raise exit_codes.CliExit(str(error), exit_codes.FAILED) from None
    return exit_codes.OK


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
