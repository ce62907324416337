"""``dkd import``: reads runs that other programs have recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from client.cli import exit_codes
from client.cli.arguments import path_of
from client.exporters.packages import MissingPackageError
from client.importers import mlflow, tables, tensorboard, wandb
from client.importers.foreign import ImportSourceError, MetricName

_READERS = {"tensorboard": tensorboard.read, "mlflow": mlflow.read, "wandb": wandb.read}


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("import", epilog=exit_codes.HELP)(import_runs)


def import_runs(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            parser=path_of,
            help="A folder of event files; a folder mlruns or a file mlflow.db; a folder of offline runs of W&B.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", parser=path_of, metavar="FOLDER", help="Folder of the tables.")],
    format: Annotated[str, typer.Option("--format", "-f", help=f"One of {', '.join(_READERS)}.")],
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="THEIRS=OURS",
            help="Name of a metric in DKD Lab, with a factor if the unit differs: val_acc=test/top1*100. Can be "
            "repeated.",
        ),
    ] = None,
) -> int:
    """Read runs of TensorBoard, MLflow or Weights & Biases into the tables of `dkd export --format parquet`.

    The runs are marked as foreign: their ids begin with the name of the program, and the column source names it. The
    seed is that of the parameters, or of the run's name ("baseline seed 3"). Nothing is sent to the backend, whose
    comparisons contain only runs that it has trained.
    """
    if format not in _READERS:
        raise exit_codes.CliExit(f"--format {format}: must be one of {', '.join(_READERS)}", exit_codes.BAD_INPUT)
    try:
        names = [MetricName.parse(text) for text in metric or []]
    except ValueError as error:
        raise exit_codes.CliExit(f"--metric {error}", exit_codes.BAD_INPUT) from None
    try:
        counts = tables.write(_READERS[format](source), out, names)
    except ImportSourceError as error:
        raise exit_codes.CliExit(str(error), exit_codes.BAD_INPUT) from None
    except MissingPackageError as error:
        raise exit_codes.CliExit(str(error)) from None
    except OSError as error:
        raise exit_codes.unwritable(error.filename or str(out), error) from None
    typer.echo(f"{out}: {counts['runs']:,} foreign run(s), {counts['metrics']:,} points")
    return exit_codes.OK
