"""Commands that give networks away: export-model, and measure."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from client import costs, deployment
from client.cli import exit_codes
from client.cli.arguments import path_of
from client.cli.options import JsonFlag
from client.cli.targets import resolve_run, resolve_target
from client.client import Client
from client.rendering.tables import console_for, new_table, run_name
from common.formatting import value_text
from common.terminal import printable, printable_json
from core.protocol.comparisons import Comparison
from core.protocol.public import Run

_FORMATS = {"onnx": ".onnx", "torchscript": ".pt", "safetensors": ".safetensors"}
_DEVICES = ("cpu", "cuda")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("export-model", epilog=exit_codes.HELP)(export_model)
    app.command(epilog=exit_codes.HELP)(measure)


def export_model(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's id.")],
    format: Annotated[str, typer.Option("--format", "-f", help=f"One of {', '.join(_FORMATS)}.")] = "onnx",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", parser=path_of, metavar="FILE", help="The file; by default named after the run, here."
        ),
    ] = None,
    int8: Annotated[
        bool,
        typer.Option("--int8", help="For onnx: also write the network with weights of 8 bits, as FILE.int8.onnx."),
    ] = False,
    accuracy: Annotated[
        bool,
        typer.Option(
            "--accuracy/--no-accuracy", help="Measure the accuracy, if the test images are on this machine (DATA_DIR)."
        ),
    ] = True,
    as_json: JsonFlag = False,
) -> int:
    """Export the network of a run, and check it.

    The logits of the exported file are compared with those of PyTorch, and the accuracy of each file is measured on the
    test images. ONNX and TorchScript take images scaled to 0–1, in batches of any size, and contain the normalisation.
    Safetensors are the weights as they are. This machine needs the extras train and deploy.
    """
    if format not in _FORMATS:
        raise exit_codes.CliExit(f"--format {format}: must be one of {', '.join(_FORMATS)}", exit_codes.BAD_INPUT)
    if int8 and format != "onnx":
        raise exit_codes.CliExit(f"--int8 needs --format onnx, not {format}", exit_codes.BAD_INPUT)
    with Client() as client, tempfile.TemporaryDirectory() as folder:
        found = resolve_run(client, run)
        file = out or Path(f"{found.model}-{found.id}{_FORMATS[format]}")
        small = file.with_name(f"{file.stem}.int8.onnx") if int8 else None
        try:
            files = deployment.fetch(client, found, Path(folder))
            report = deployment.export_model(files, format, file, int8=small, accuracy=accuracy)
        except OSError as error:
            raise exit_codes.unwritable(str(file), error) from None
        except deployment.DeploymentError as error:
            raise exit_codes.CliExit(str(error)) from None
    if as_json:
        _print_json(report)
    else:
        for line in export_lines(report):
            typer.echo(line)
    return exit_codes.OK


def export_lines(report: dict[str, Any]) -> list[str]:
    """Return the report of an export as sentences."""
    shape = " × ".join(map(str, report["input"]))
    check = report["check"]
    lines = [
        f"{report['file']}: {report['bytes']:,} bytes, images {shape} in 0–1, {report['classes']} classes",
        f"logits differ from PyTorch's by at most {check['largest']:.2g} ({check['relative']:.2g} of the largest)",
    ]
    if small := report.get("int8"):
        lines.append(f"{small['file']}: {small['bytes']:,} bytes, weights of 8 bits")
    accuracy = report["accuracy"]
    if isinstance(accuracy, str):
        lines.append(f"the accuracy was not measured: {accuracy}")
    elif accuracy:
        top1 = ", ".join(f"{name} {value_text(value, '%', 2)}" for name, value in accuracy["top1"].items())
        lines.append(f"accuracy on {accuracy['images']:,} test images: {top1}")
        same = ", ".join(f"{name} {value_text(value, '%', 2)}" for name, value in accuracy["agreement"].items())
        lines.append(f"same class as PyTorch: {same}")
    return lines


def measure(
    target: Annotated[
        list[str],
        typer.Argument(metavar="TARGET...", help="Ids of runs, or experiments for all their runs that have succeeded."),
    ],
    threads: Annotated[
        int | None, typer.Option(min=1, max=9999, help="CPU threads; by default torch's choice.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, max=9999, help="Measurements of each network.")] = 15,
    device: Annotated[str, typer.Option(help=f"One of {', '.join(_DEVICES)}.")] = "cpu",
    within: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="POINTS",
            help="Also name the smallest students that are worse than the teacher by at most this value.",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> int:
    """Measure the networks of runs on this machine: parameters, operations, memory and latency.

    FLOPs count two operations for each multiplication with an addition, for one image. Memory is the largest sum of all
    tensors during a forward pass, without the weights. Latency is the median over the rounds in float32, in which the
    networks alternate. This machine needs the extra train. The page Compare draws the output of --json.
    """
    if device not in _DEVICES:
        raise exit_codes.CliExit(f"--device {device}: must be one of {', '.join(_DEVICES)}", exit_codes.BAD_INPUT)
    if within is not None and as_json:
        raise exit_codes.CliExit("--within: not with --json", exit_codes.BAD_INPUT)
    with Client() as client, tempfile.TemporaryDirectory() as folder:
        runs, experiments = _networks_of(client, target)
        if within is not None and not experiments:
            raise exit_codes.CliExit("--within needs an experiment, not only runs", exit_codes.BAD_INPUT)
        try:
            files = [deployment.fetch(client, found, Path(folder)) for found in runs]
            report = deployment.measure(files, threads=threads, rounds=rounds, device=device)
        except deployment.DeploymentError as error:
            raise exit_codes.CliExit(str(error)) from None
        comparisons = [client.comparisons.get(experiment) for experiment in experiments] if within is not None else []
    for found, network in zip(runs, report["networks"], strict=True):
        network["run_id"], network["name"] = found.id, run_name(found)
    if as_json:
        _print_json(report)
    else:
        _print_table(report, device, rounds)
        for line in _choices(report, comparisons, within):
            typer.echo(printable(line))
    return exit_codes.OK


def _networks_of(client: Client, targets: Sequence[str]) -> tuple[list[Run], list[str]]:
    """Return the runs that are named or belong to a named experiment, and the ids of these experiments.

    Raises:
        CliExit: A target does not exist, or no run of an experiment has succeeded.
    """
    runs: dict[str, Run] = {}
    experiments = []
    for target in dict.fromkeys(targets):
        found = resolve_target(client, target)
        if isinstance(found, Run):
            runs[found.id] = found
            continue
        succeeded = [run.id for run in found.runs if run.state == "succeeded"]
        if not succeeded:
            raise exit_codes.CliExit(f"no run of {found.name} has succeeded, so none has left a network")
        experiments.append(found.id)
        for run_id in succeeded:
            if run_id not in runs:
                runs[run_id] = client.runs.get(run_id)
    return list(runs.values()), experiments


def _choices(report: dict[str, Any], comparisons: Sequence[Comparison], within: float | None) -> Iterator[str]:
    """Yield the smallest students in words, by parameters, operations and latency."""
    if within is None:
        return
    measured = costs.Costs.model_validate(report)
    found = costs.candidates(comparisons, measured)
    sentences = [
        costs.choice_sentences(found, axis, within, "teacher")
        for name, axis in costs.axes(measured).items()
        if name in ("parameters", "flops") or name.startswith("latency")
    ]
    for line in dict.fromkeys(" ".join(parts) for parts in sentences):
        yield f"- {line}"


def _print_table(report: dict[str, Any], device: str, rounds: int) -> None:
    console = console_for()
    batches = list(report["networks"][0]["latency"])
    timed = [f"ms, batch {batch}" for batch in batches]
    memory = [f"MB, batch {batch}" for batch in batches]
    columns = ("parameters", "weights (MB)", "MFLOPs", *memory, *timed)
    table = new_table("run", "model", *columns, numbers=columns)
    for network in report["networks"]:
        table.add_row(
            network["name"],
            network["model"],
            f"{network['parameters']:,}",
            _megabytes(network["weight_bytes"]),
            f"{network['flops'] / 1e6:,.2f}",
            *(_megabytes(network["peak_bytes"][batch]) for batch in batches),
            *(_milliseconds(network["latency"][batch]) for batch in batches),
        )
    console.print(table)
    count = f"{report['threads']} thread{'' if report['threads'] == 1 else 's'}"
    where = report["device"] if device == "cuda" else f"CPU, {count}"
    console.print(f"{where}, float32, torch {report['torch']}; median [first, third quartile] of {rounds} rounds")


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.3f}"


def _milliseconds(latency: dict[str, float]) -> str:
    low, median, high = (1000 * latency[name] for name in ("low", "median", "high"))
    return f"{median:.2f} [{low:.2f}, {high:.2f}]"


def _print_json(report: Any) -> None:
    typer.echo(printable_json(json.dumps(report, indent=2)))
