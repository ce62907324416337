"""Methods with two stages, trained by one process and by two ranks.

``python -m tests.core.methods.two_stage_runs FOLDER``

Forked from one process that has imported torch and computed nothing with it, so that three trainings cost one import.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from core.launch import RankInfo
from core.settings import TrainingSettings
from core.specs import ExperimentSpec, parse_experiment
from core.train import TeacherSource, run_training
from core.train.ranks import SINGLE_PROCESS, Ranks, process_group
from tests.core.resume_chain import ended, forked

METHODS: dict[str, Any] = {
    "ab": {"name": "ab", "params": {"init_epochs": 1, "weight": 30.0}},
    "ft": {"name": "ft", "params": {"init_epochs": 1, "weight": 50.0}},
    "ft public": {"name": "ft", "params": {"init_epochs": 1, "variant": "public_code", "weight": 50.0}},
    "hint": {"name": "fitnet", "params": {"hint_epochs": 1, "weight": 1.0, "student_tap": "stage1"}},
    # Not of two stages: the loss is a mean over rows, and one rank has no row of an epoch's last batch.
    "vid": "vid",
    "mgd": {"name": "mgd", "params": {"teacher_tap": "stage2", "weight": 1e-3}},
}
STEPS = 3  # of an epoch: 33 images in batches of 16, 16 and 1


def experiment(*methods: Any, epochs: int = 2, **training: Any) -> ExperimentSpec:
    return parse_experiment(
        {
            "name": "stages",
            "dataset": {
                "name": "synthetic",
                "params": {"num_classes": 5, "image_size": 8, "train_size": 33, "test_size": 20},
            },
            "teacher": {"model": "resnet8", "training": {"epochs": 1, "batch_size": 11}},
            "student": {"model": {"name": "small_cnn", "params": {"width": 4}}},
            "methods": [*methods],
            "seeds": [0],
            "training": {
                "epochs": epochs,
                "batch_size": 16,
                # The first step of a spec with warm-up has the rate 0.
                "schedule": {"name": "constant", "warmup_epochs": 0},
                "optimizer": {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1},
            }
            | training,
        }
    )


def everything(root: Path, ranks: Ranks = SINGLE_PROCESS) -> None:
    settings = TrainingSettings(cache_dir=root / "cache", threads=1)
    source = TeacherSource(experiment("kd").plan()[0].spec, root.parent / "teacher" / "weights.safetensors")
    for label, method in METHODS.items():
        spec = experiment(method).plan()[-1].spec
        assert run_training(spec, root / label, source, ranks=ranks, settings=settings) == "finished", label


def one_rank(root: Path, rank: int) -> None:
    with process_group(RankInfo(rank, 2, root / "meeting")) as ranks:
        everything(root / "two", ranks)


def main(root: Path) -> None:
    os.environ |= {"DKD_THREADS": "1", "DKD_CACHE_DIR": str(root / "cache")}
    (root / "meeting").mkdir()
    teacher = experiment("kd").plan()[0].spec
    assert ended(forked(lambda: run_training(teacher, root / "teacher"))) == 0
    children = [forked(lambda rank=rank: one_rank(root, rank)) for rank in range(2)]  # type: ignore[misc]
    assert ended(forked(lambda: everything(root / "one"))) == 0
    assert [ended(child) for child in children] == [0, 0]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
