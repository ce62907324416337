"""Trains runs without faults in a process of its own: ``python -m benchmarks.chaos.reference FOLDER``.

Every folder below FOLDER contains a ``run.json``, and a ``teacher.json`` if the run needs a teacher, which is trained
first. The output is JSON: the digests of the weights by name.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.chaos.supervised import ROOT
from core.specs import RunSpec

_ONE_THREAD = dict.fromkeys(("DKD_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True)
class ReferenceRun:
    """A run to train without faults, and its teacher, if any."""

    name: str
    run: RunSpec
    teacher: RunSpec | None = None


def train_references(folder: Path, runs: Iterable[ReferenceRun]) -> dict[str, str]:
    """Train runs without faults, and return the digests of their weights by name."""
    for item in runs:
        (folder / item.name).mkdir(parents=True)
        (folder / item.name / "run.json").write_text(item.run.model_dump_json())
        if item.teacher:
            (folder / item.name / "teacher.json").write_text(item.teacher.model_dump_json())
    command = [sys.executable, "-m", "benchmarks.chaos.reference", str(folder)]
    environment = os.environ | _ONE_THREAD | {"CUDA_VISIBLE_DEVICES": "", "DKD_CACHE_DIR": str(folder / "cache")}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    digests: dict[str, str] = json.loads(done.stdout)
    return digests


def main(folder: str) -> None:
    import torch

    from core.train import TeacherSource, run_training
    from core.train.run import WEIGHTS_NAME

    torch.set_num_threads(1)
    digests = {}
    for path in sorted(Path(folder).glob("*/run.json")):
        source = None
        teacher_file = path.with_name("teacher.json")
        if teacher_file.exists():
            source = TeacherSource(
                RunSpec.model_validate_json(teacher_file.read_bytes()), path.parent / "teacher" / WEIGHTS_NAME
            )
            run_training(source.spec, source.weights.parent)
        run_training(RunSpec.model_validate_json(path.read_bytes()), path.parent, source)
        digests[path.parent.name] = hashlib.sha256((path.parent / WEIGHTS_NAME).read_bytes()).hexdigest()
    sys.stdout.write(json.dumps(digests))


if __name__ == "__main__":
    main(sys.argv[1])
