"""Several methods trained by one process and by two ranks: ``python -m tests.core.two_ranks FOLDER``.

Forked from one process that has imported torch and computed nothing with it, so that three trainings cost one import.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from core.distill.objective import build_objective
from core.launch import RankInfo
from core.specs import RunSpec, parse_experiment
from core.tasks.classification import data, models
from core.train import TeacherSource, TrainOptions, method, run_training
from core.train.checkpoint import CHECKPOINT_NAME
from core.train.performance import ExecutionPlan
from core.train.ranks import SINGLE_PROCESS, Ranks, process_group
from core.train.stepper import Stepper
from tests.core.resume_chain import ended, forked

SPEC: dict[str, Any] = {
    "name": "ranks",
    # 69 images: batches of 16, 16, 16, 16 and 5, of which the ranks get 2 and 3.
    "dataset": {
        "name": "synthetic",
        "params": {"num_classes": 5, "image_size": 8, "train_size": 69, "test_size": 40},
    },
    "teacher": {"model": {"name": "small_cnn", "params": {"width": 4}}},
    "student": {"model": {"name": "small_cnn", "params": {"width": 4}}},
    "methods": [
        # So large that the term, tiny in this form, decides where the weights go.
        {"name": "dkd_align", "label": "batch", "params": {"reduction": "batch", "epsilon": 1000}},
        {"name": "dkd_align", "label": "log", "params": {"reduction": "log", "epsilon": 3}},
        {"name": "dkd_align", "label": "share", "params": {"reduction": "sample", "epsilon_share": 0.3}},
        {"name": "crd", "params": {"negatives": 20, "dimensions": 8}},  # memories that all ranks hold
        {"name": "dml", "params": {"peer": "resnet8"}},  # a second network that all ranks train
    ],
    "seeds": [0],
    "training": {
        "epochs": 2,
        "batch_size": 16,
        "optimizer": {"lr": 0.02},
        "schedule": {"name": "constant"},
        "features_every": 1,
    },
}
METHODS = ("batch", "log", "share", "crd", "dml")
STOP_AT = 7  # in the second epoch


def planned() -> dict[str, RunSpec]:
    return {run.label: run.spec for run in parse_experiment(SPEC).plan()}


@contextmanager
def float64() -> Iterator[None]:
    """Networks and images in float64, so that only the order of sums can tell two trainings apart."""
    build, normalise = models.build, data.Dataset.normalise
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "build", lambda *names, **params: build(*names, **params).double())
        patch.setattr(data.Dataset, "normalise", lambda self, images: normalise(self, images).double())
        patch.setattr(ExecutionPlan, "dtype", torch.float64)
        patch.setattr(method, "build_objective", lambda *names: build_objective(*names).double())
        yield


def everything(root: Path, ranks: Ranks = SINGLE_PROCESS) -> None:
    """Every method; one of them once more, stopped and resumed."""
    specs = planned()
    source = TeacherSource(specs["teacher"], root.parent / "teacher" / "weights.safetensors")
    with float64():
        for label in METHODS:
            assert run_training(specs[label], root / label, source, ranks=ranks) == "finished"
        polled = iter(range(STOP_AT + 1))
        stopping = TrainOptions(stop_requested=lambda: next(polled, None) == STOP_AT)
        options = stopping if ranks.is_main else TrainOptions()
        assert run_training(specs["log"], root / "half", source, options=options, ranks=ranks) == "stopped"
        half = root / "half" / CHECKPOINT_NAME
        ranks.broadcast_int(0)  # the first one has written it
        assert run_training(specs["log"], root / "rest", source, resume=half, ranks=ranks) == "finished"


def one_fails(root: Path, ranks: Ranks) -> None:
    """The second rank runs out of memory at its third step; the first loses it."""
    steps, step = iter(range(100)), Stepper.step

    def failing(self: Stepper, *arguments: Any, **options: Any) -> None:
        if ranks.rank == 1 and next(steps) == 2:
            raise MemoryError
        step(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stepper, "step", failing)
        spec = parse_experiment(SPEC | {"methods": ["ce"]}).plan()[0].spec
        assert run_training(spec, root / "failed", ranks=ranks) == "failed"


def one_rank(root: Path, rank: int) -> None:
    for number, work in enumerate((everything, one_fails)):
        with process_group(RankInfo(rank, 2, root / f"meeting{number}")) as ranks:
            work(root / "two", ranks)


def main(root: Path) -> None:
    os.environ |= {"DKD_THREADS": "1", "DKD_CACHE_DIR": str(root / "cache")}
    for number in range(2):
        (root / f"meeting{number}").mkdir()
    assert ended(forked(lambda: run_training(planned()["teacher"], root / "teacher"))) == 0
    children = [forked(lambda rank=rank: one_rank(root, rank)) for rank in range(2)]  # type: ignore[misc]
    assert ended(forked(lambda: everything(root / "one"))) == 0
    assert [ended(child) for child in children] == [0, 0]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
