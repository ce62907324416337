"""``dkd export``: an experiment or a run for other programs, or to be repeated."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from client.address import normalize_url
from client.cli import exit_codes
from client.cli.arguments import path_of
from client.cli.options import connected
from client.cli.targets import find
from client.client import Client
from client.errors import ClientSettingsError
from client.exporters import mlflow, tensorboard
from client.exporters.series import DownsampledError
from common.terminal import printable_json
from core.protocol.public import Experiment, Run
from core.protocol.records import ExperimentRecord, RunRecord
from core.specs import dump_text, starting_point

_FORMATS = ("json", "csv", "spec", "tensorboard", "mlflow")


def register(app: typer.Typer) -> None:
    app.command(epilog=exit_codes.HELP)(export)


def export(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="An experiment's name or id, or a run's id.")],
    format: Annotated[str, typer.Option("--format", "-f", help=f"One of {', '.join(_FORMATS)}.")] = "json",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", parser=path_of, metavar="PATH", help="A file, instead of stdout; for tensorboard a folder."
        ),
    ] = None,
    to: Annotated[str | None, typer.Option("--to", help="For mlflow: the tracking server's address.")] = None,
) -> int:
    """Write an experiment or a run for other programs.

    json: everything needed to repeat each run: spec, fingerprint, package versions, commit with its uncommitted
    changes, hardware, and its last metrics. csv: a row a run. spec: the YAML that makes the same again, for
    `dkd submit -`. tensorboard: event files, a folder a run. mlflow: runs on a tracking server, each sent once.
    """
    if format not in _FORMATS:
        raise exit_codes.CliExit(f"--format {format}: one of {', '.join(_FORMATS)}", exit_codes.BAD_INPUT)
    if format == "mlflow" and to is None:
        raise exit_codes.CliExit("--format mlflow needs --to, as http://127.0.0.1:5000", exit_codes.BAD_INPUT)
    if to is not None:
        _check_server(format, to)
    if format == "tensorboard" and out is None:
        raise exit_codes.CliExit("--format tensorboard needs --out, a folder", exit_codes.BAD_INPUT)
    with connected() as client:
        found = find(client, target)
        try:
            if format == "tensorboard" and out is not None:
                for run in _records(client, found)[1]:
                    typer.echo(str(tensorboard.write(client, run, out)))
            elif format == "mlflow" and to is not None:
                record, runs = _records(client, found)
                with mlflow.Tracking(to) as tracking:
                    for line in mlflow.send_all(client, tracking, record, runs):
                        typer.echo(line)
            else:
                _write(_text(client, found, format), out)
        except OSError as error:
            raise exit_codes.unwritable(f"--out {out}" if out else "stdout", error) from None
        except (tensorboard.MissingPackageError, mlflow.MlflowError, DownsampledError) as error:
            raise exit_codes.CliExit(str(error), exit_codes.FAILED) from None
    return exit_codes.OK


def _check_server(format: str, to: str) -> None:
    """Raises Stop where --to has nothing to say, or is no address."""
    if format != "mlflow":
        raise exit_codes.CliExit(f"--to {to}: only with --format mlflow", exit_codes.BAD_INPUT)
    try:
        normalize_url(to)
    except ClientSettingsError as error:
        raise exit_codes.CliExit(f"--to {error}", exit_codes.BAD_INPUT) from None


def _text(client: Client, found: Experiment | Run, format: str) -> str:
    if format == "csv":
        if isinstance(found, Run):
            raise exit_codes.CliExit("csv is of an experiment, a row a run; name one", exit_codes.BAD_INPUT)
        return client.experiment_csv(found.id)
    if format == "json":
        record = client.run_record(found.id) if isinstance(found, Run) else client.experiment_record(found.id)
        return printable_json(record.model_dump_json(indent=2)) + "\n"
    if isinstance(found, Run):
        spec = client.run_record(found.id).repeat
        if spec is None:
            raise exit_codes.CliExit(
                "a teacher has no spec of its own; its students bring it with them", exit_codes.BAD_INPUT
            )
    else:
        spec = starting_point(found.spec)
    return dump_text(spec, width=100)


def _records(client: Client, found: Experiment | Run) -> tuple[ExperimentRecord, list[RunRecord]]:
    """The experiment's record, and those of its runs that were named."""
    if isinstance(found, Experiment):
        record = client.experiment_record(found.id)
        return record, record.runs
    record = client.experiment_record(found.experiment_id)
    return record, [run for run in record.runs if run.run_id == found.id]


def _write(text: str, out: Path | None) -> None:
    if out is None:
        typer.echo(text, nl=False)
    else:
        out.write_text(text, encoding="utf-8")
        typer.echo(f"written to {out}", err=True)
