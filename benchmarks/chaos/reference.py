"""Trains runs undisturbed, in a process of its own: ``python -m benchmarks.chaos.reference FOLDER``.

Every folder below FOLDER holds a ``run.json``, and a ``teacher.json`` where the run needs a teacher, which is trained
first; the digest of the run's weights is printed beside its name.
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

from benchmarks.chaos.daemons import ROOT
from core.specs import RunSpec

_ONE_THREAD = dict.fromkeys(("DKD_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Wanted:
    """A run to be trained undisturbed, and the teacher that it needs."""

    name: str
    run: RunSpec
    teacher: RunSpec | None = None


def undisturbed(folder: Path, runs: Iterable[Wanted]) -> dict[str, str]:
    """Digest of the weights by name, of runs that nothing interrupts."""
    for wanted in runs:
        (folder / wanted.name).mkdir(parents=True)
        (folder / wanted.name / "run.json").write_text(wanted.run.model_dump_json())
        if wanted.teacher:
            (folder / wanted.name / "teacher.json").write_text(wanted.teacher.model_dump_json())
    command = [sys.executable, "-m", "benchmarks.chaos.reference", str(folder)]
    environment = os.environ | _ONE_THREAD | {"CUDA_VISIBLE_DEVICES": "", "DKD_CACHE_DIR": str(folder / "cache")}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def main(folder: str) -> None:
    import torch

    from core.training import TeacherSource, run_training
    from core.training.run import WEIGHTS_NAME

    torch.set_num_threads(1)
    found = {}
    for path in sorted(Path(folder).glob("*/run.json")):
        source = None
        taught_by = path.with_name("teacher.json")
        if taught_by.exists():
            source = TeacherSource(
                RunSpec.model_validate_json(taught_by.read_bytes()), path.parent / "teacher" / WEIGHTS_NAME
            )
            run_training(source.spec, source.weights.parent)
        run_training(RunSpec.model_validate_json(path.read_bytes()), path.parent, source)
        found[path.parent.name] = hashlib.sha256((path.parent / WEIGHTS_NAME).read_bytes()).hexdigest()
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
