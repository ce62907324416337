"""``python -m core export-model`` and ``measure``: the network of a run for use elsewhere. Starts without torch."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from core.settings import TrainingSettings
from core.specs import RunSpec

if TYPE_CHECKING:
    from core.deploy.checks import Difference
    from core.deploy.network import RunNetwork

_FORMATS = ("onnx", "torchscript", "safetensors")
_FAILED = 1


class UsageError(Exception):
    """An argument cannot be used."""


def add_to(commands: Any) -> None:
    """Add the commands to the parser of ``python -m core``.

    Args:
        commands: What ``add_subparsers`` returned.
    """
    export = commands.add_parser("export-model", help="write the network of a run in another format, and check it")
    export.add_argument("input", type=Path, metavar="RUN.json", help="the run's spec")
    export.add_argument("weights", type=Path, metavar="WEIGHTS.safetensors", help="the weights that the run left")
    export.add_argument("--out", type=Path, required=True, metavar="FILE")
    export.add_argument("--format", choices=_FORMATS, default="onnx")
    export.add_argument(
        "--int8", type=Path, metavar="FILE", help="for onnx: also write the network with weights of 8 bits"
    )
    export.add_argument("--no-accuracy", action="store_true", help="do not measure the accuracy on the test images")
    export.set_defaults(command=_export)

    measure = commands.add_parser("measure", help="measure parameters, operations, memory and latency of networks")
    measure.add_argument("input", type=Path, metavar="RUN.json", help="the first run's spec")
    measure.add_argument("weights", type=Path, metavar="WEIGHTS.safetensors")
    measure.add_argument(
        "--and",
        dest="more",
        nargs=2,
        action="append",
        default=[],
        type=Path,
        metavar=("RUN.json", "WEIGHTS.safetensors"),
        help="a further network, measured in turn with the others; repeatable",
    )
    measure.add_argument("--threads", type=_positive, metavar="N", help="CPU threads; default: torch's choice")
    measure.add_argument("--rounds", type=_positive, default=15, metavar="N", help="default: 15")
    measure.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    measure.set_defaults(command=_measure)


def _positive(text: str) -> int:
    number = int(text) if text.isdecimal() and len(text) <= 4 else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 to 9999")
    return number


def _export(options: argparse.Namespace) -> int:
    from core.deploy import checks, formats  # imports torch
    from core.deploy.network import DeployError

    if options.int8 and options.format != "onnx":
        raise UsageError(f"--int8 needs --format onnx, not {options.format}")
    try:
        run = _read(options.input, options.weights)
        formats.write(run, options.format, options.out)
        runners = {options.format: formats.open_runner(run, options.format, options.out)}
        difference = checks.compare(run, runners[options.format])
        report = _file_report(options.out) | {
            "format": options.format,
            "run": formats.description(run),
            "input": list(run.images(1).shape[1:]),
            "classes": run.num_classes,
            "check": difference.as_json(),
        }
        if options.int8:
            formats.quantise(options.out, options.int8)
            runners["int8"] = formats.open_runner(run, "onnx", options.int8)
            report["int8"] = _file_report(options.int8)
        report["accuracy"] = None if options.no_accuracy else _accuracy(run, runners, options.settings)
    except DeployError as error:
        raise UsageError(str(error)) from None
    except OSError as error:
        raise UsageError(f"{error.filename or options.out}: {error.strerror or error}") from None
    print(json.dumps(report, indent=2))  # noqa: T201
    return _result(difference, options.format)


def _accuracy(run: RunNetwork, runners: dict[str, Any], settings: TrainingSettings) -> Any:
    """Return the accuracies as JSON, or the reason why they were not measured."""
    from core.deploy import checks

    measured = checks.measure_accuracy(run, {"pytorch": run.deployed(), **runners}, settings)
    return measured if isinstance(measured, str) else measured.as_json()


def _result(difference: Difference, format: str) -> int:
    if difference.passed:
        return 0
    text = f"the {format} file differs from PyTorch: by {difference.relative:.2g} of the largest logit"
    sys.stderr.write(f"{text}\n")
    return _FAILED


def _measure(options: argparse.Namespace) -> int:
    import torch

    from core.deploy.measure import measure
    from core.deploy.network import DeployError

    if options.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no GPU here")
    if options.threads:
        torch.set_num_threads(options.threads)
    pairs = [(options.input, options.weights), *options.more]
    try:
        runs = [_read(path, weights) for path, weights in pairs]
    except DeployError as error:
        raise UsageError(str(error)) from None
    device = torch.device(options.device)
    costs = measure(runs, device=device, rounds=options.rounds)
    report = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "networks": [
            {"model": run.spec.model.name, "fingerprint": run.spec.fingerprint(), **cost.as_json()}
            for run, cost in zip(runs, costs, strict=True)
        ],
    }
    print(json.dumps(report, indent=2))  # noqa: T201
    return 0


def _read(path: Path, weights: Path) -> RunNetwork:
    from core.deploy.network import read_run_network

    try:
        spec = RunSpec.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except ValidationError as error:
        raise UsageError(f"{path} is not the spec of a run: {error.errors()[0]['msg']}") from None
    return read_run_network(spec, weights)


def _file_report(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"file": str(path), "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
