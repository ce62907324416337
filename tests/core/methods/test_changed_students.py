"""Methods that read or replace the student's classifier, in whole trainings on two ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file

from core.events import JOURNAL_NAME, Metrics, read_journal
from core.launch import RankInfo
from core.settings import TrainingSettings
from core.specs import PlannedRun, parse_experiment
from core.train import TeacherSource, run_training
from core.train.ranks import SINGLE_PROCESS, Ranks, process_group

METHODS: Any = ["simkd", {"name": "norm", "params": {"copies": 2}, "with": ["kd"]}, "cat_kd"]
ONE_IMAGE = 100 / 69  # %, by which rounding may change an accuracy


def planned() -> list[PlannedRun]:
    spec: dict[str, Any] = {
        "name": "ranks",
        "dataset": {
            "name": "synthetic",
            "params": {"num_classes": 5, "image_size": 8, "train_size": 69, "test_size": 40},
        },
        "teacher": {"model": "resnet8", "training": {"epochs": 1}},
        "student": {"model": "resnet8"},
        "methods": METHODS,
        "seeds": [0],
        "training": {"epochs": 1, "batch_size": 16, "optimizer": {"lr": 0.02}},
    }
    return parse_experiment(spec).plan()


def train_all(folder: Path, out: Path, ranks: Ranks = SINGLE_PROCESS) -> None:
    settings = TrainingSettings(cache_dir=folder / "cache", threads=1)
    teacher, *students = planned()
    source = TeacherSource(teacher.spec, folder / "teacher" / "weights.safetensors")
    for number, student in enumerate(students):
        result = run_training(student.spec, out / str(number), source, ranks=ranks, settings=settings)
        assert result == "finished", student.label


def one_rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    with process_group(RankInfo(rank, 2, folder / "meeting")) as ranks:
        train_all(folder, folder / "two", ranks)


def metrics(folder: Path) -> list[dict[str, float]]:
    return [record.event.values for record in read_journal(folder / JOURNAL_NAME) if isinstance(record.event, Metrics)]


@pytest.mark.slow
def test_training_on_two_ranks_equals_that_of_one_process(tmp_path: Path) -> None:
    """The loss reads layers that DistributedDataParallel does not see, and leaves out layers that it waits for."""
    (tmp_path / "meeting").mkdir()
    settings = TrainingSettings(cache_dir=tmp_path / "cache", threads=1)
    assert run_training(planned()[0].spec, tmp_path / "teacher", settings=settings) == "finished"
    mp.spawn(one_rank, args=(tmp_path,), nprocs=2)  # type: ignore[attr-defined, no-untyped-call]
    train_all(tmp_path, tmp_path / "one")
    for number, student in enumerate(planned()[1:]):
        one, two = (tmp_path / ranks / str(number) for ranks in ("one", "two"))
        for first, second in zip(metrics(one), metrics(two), strict=True):
            for name, value in first.items():
                if name.startswith(("train/", "test/loss")):
                    tolerance = 1.01 * ONE_IMAGE if "top" in name else 1e-5
                    assert second[name] == pytest.approx(value, rel=1e-3, abs=tolerance), (student.label, name)
        weights = [load_file(folder / "weights.safetensors") for folder in (one, two)]
        for name, tensor in weights[0].items():
            torch.testing.assert_close(weights[1][name], tensor, rtol=1e-2, atol=1e-4, msg=f"{student.label} {name}")
