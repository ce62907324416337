"""Trains runs undisturbed, in a process of its own: ``python -m benchmarks.chaos.reference FOLDER``.

Every folder below FOLDER holds a ``run.json``; the digest of its weights is printed beside its name.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks.chaos.daemons import ROOT
from core.spec import RunSpec

_ONE_THREAD = dict.fromkeys(("DKD_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def undisturbed(folder: Path, specs: Iterable[tuple[str, RunSpec]]) -> dict[str, str]:
    """Digest of the weights by name, of runs that nothing interrupts."""
    for name, spec in specs:
        (folder / name).mkdir(parents=True)
        (folder / name / "run.json").write_text(spec.model_dump_json())
    command = [sys.executable, "-m", "benchmarks.chaos.reference", str(folder)]
    environment = os.environ | _ONE_THREAD | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def main(folder: str) -> None:
    import torch

    from core.training import run_training
    from core.training.run import WEIGHTS_NAME

    torch.set_num_threads(1)
    found = {}
    for path in sorted(Path(folder).glob("*/run.json")):
        run_training(RunSpec.model_validate_json(path.read_bytes()), path.parent)
        found[path.parent.name] = hashlib.sha256((path.parent / WEIGHTS_NAME).read_bytes()).hexdigest()
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
