"""Networks of runs for use elsewhere: their files are fetched, and ``python -m core`` exports or measures them here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from client.client import Client
from core.protocol.public import Run

_WEIGHTS = "weights.safetensors"


class DeploymentError(Exception):
    """A network cannot be fetched, exported or measured. The message says why."""


def fetch(client: Client, run: Run, folder: Path) -> tuple[Path, Path]:
    """Write a run's spec and weights into a folder, and return both files.

    Args:
        client: The client.
        run: The run.
        folder: An existing folder.

    Raises:
        DeploymentError: The run has not succeeded, or has no weights.
        OSError: The files cannot be written.
    """
    name = f"{run.label} seed {run.seed}"
    if run.state != "succeeded":
        raise DeploymentError(f"{name} is {run.state}: only a run that has succeeded leaves a network")
    item = next((item for item in client.runs.artifacts(run.id).items if item.name == _WEIGHTS), None)
    if item is None:
        raise DeploymentError(f"{name} has no file {_WEIGHTS}; `dkd artifacts {run.id}` lists its files")
    spec, weights = folder / f"{run.id}.json", folder / f"{run.id}.safetensors"
    spec.write_text(json.dumps(run.spec), encoding="utf-8")
    client.runs.download(run.id, item.id, weights)
    return spec, weights


def export_model(files: tuple[Path, Path], format: str, out: Path, *, int8: Path | None, accuracy: bool) -> Any:
    """Export a network, and return the report of its checks.

    Args:
        files: Spec and weights of the run.
        format: The format.
        out: The exported file.
        int8: For onnx, the file of the network with weights of 8 bits; None for none.
        accuracy: Measure the accuracy on the test images, if they are on this machine.

    Raises:
        DeploymentError: The network cannot be exported, or the check has failed.
    """
    options = ["--format", format, "--out", str(out)]
    options += ["--int8", str(int8)] if int8 else []
    options += [] if accuracy else ["--no-accuracy"]
    return _core(["export-model", *map(str, files), *options])


def measure(files: Sequence[tuple[Path, Path]], *, threads: int | None, rounds: int, device: str) -> Any:
    """Measure networks in turn, and return the report.

    Args:
        files: Spec and weights of each run.
        threads: CPU threads; None for torch's choice.
        rounds: Measurements of each network.
        device: ``cpu`` or ``cuda``.

    Raises:
        DeploymentError: A network cannot be measured.
    """
    first, *others = files
    options = [word for pair in others for word in ("--and", *map(str, pair))]
    options += ["--threads", str(threads)] if threads else []
    return _core(["measure", *map(str, first), *options, "--rounds", str(rounds), "--device", device])


def _core(arguments: Sequence[str]) -> Any:
    """Run a command of ``python -m core`` and return its JSON output."""
    if find_spec("torch") is None:
        raise DeploymentError("torch is not installed; pip install 'dkd-lab[train,deploy]'")
    process = subprocess.run([sys.executable, "-m", "core", *arguments], capture_output=True, check=False)
    if process.returncode:
        lines = process.stderr.decode("utf-8", "replace").strip().splitlines()
        raise DeploymentError(lines[-1] if lines else f"the command ended with code {process.returncode}")
    return json.loads(process.stdout)
