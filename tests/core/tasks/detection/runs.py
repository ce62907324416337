"""Small trainings of detectors on scenes of digits, for the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from core.catalog.metric import VARYING_PREFIXES
from core.events import JOURNAL_NAME, Metrics, read_journal
from core.launch import RankInfo
from core.settings import TrainingSettings
from core.specs import RunSpec, parse_experiment
from core.train import TeacherSource, TrainOptions, run_training
from core.train.ranks import process_group

IMAGES = {"train_size": 10, "test_size": 4, "image_size": 64}


def small(name: str, backbone: str, **params: Any) -> dict[str, Any]:
    """Return a detector with few weights."""
    return {"name": name, "params": {"backbone": backbone, **params}}


def detector(backbone: str) -> dict[str, Any]:
    """Return a detector of two stages with few weights."""
    return small("faster_rcnn", backbone, fpn_channels=16, head_width=16, box_batch_size_per_image=32)


def spec(*methods: Any, **fields: Any) -> dict[str, Any]:
    """Return an experiment on scenes of digits."""
    return {
        "name": "scenes",
        "dataset": {"name": "digit_scenes", "params": IMAGES},
        "teacher": {"model": detector("resnet14"), "training": {"epochs": 1}},
        "student": {"model": detector("resnet8")},
        "methods": list(methods),
        "seeds": [0],
        "training": {"epochs": 2, "batch_size": 4, "optimizer": {"lr": 0.005}},
        **fields,
    }


def planned(*methods: Any, **fields: Any) -> dict[str, RunSpec]:
    """Return the runs of an experiment by their labels."""
    return {run.label: run.spec for run in parse_experiment(spec(*methods, **fields)).plan()}


def settings(folder: Path) -> TrainingSettings:
    """Return settings whose caches and data sets are in a folder."""
    return TrainingSettings(cache_dir=folder / "cache", data_dir=folder / "data", threads=1)


def train(
    run: RunSpec, out: Path, teacher: TeacherSource | None = None, resume: Path | None = None, **options: Any
) -> str:
    """Train a run with one thread, with the caches beside its folder."""
    return run_training(run, out, teacher, resume, TrainOptions(**options), settings=settings(out.parent))


def metrics(folder: Path) -> list[dict[str, float]]:
    """Return the metrics of a run except those of its speed."""
    events = [record.event for record in read_journal(folder / JOURNAL_NAME)]
    return [
        {name: value for name, value in event.values.items() if not name.startswith(VARYING_PREFIXES)}
        for event in events
        if isinstance(event, Metrics)
    ]


def messages(folder: Path) -> str:
    """Return all that a run logged."""
    return "\n".join(getattr(record.event, "message", "") for record in read_journal(folder / JOURNAL_NAME))


def train_as_rank(rank: int, run: RunSpec, out: str, teacher: TeacherSource | None, meeting: str) -> None:
    """Train a run as one of two ranks."""
    torch.set_num_threads(1)
    folder = Path(out)
    info = RankInfo(rank, 2, Path(meeting))
    with process_group(info) as ranks:
        done = run_training(run, folder, teacher, ranks=ranks, settings=settings(folder.parent))
    assert done == "finished", messages(folder)
