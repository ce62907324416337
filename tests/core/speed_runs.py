"""Small runs, networks and data sets for the tests of the execution plan and of a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from core.events import JOURNAL_NAME, Log, Metrics, read_journal
from core.settings import TrainingSettings
from core.specs import DatasetRef, ExperimentSpec, RunSpec, parse_experiment
from core.tasks.classification import data
from core.tasks.classification.data.dataset import Dataset

gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
DEVICES = ["cpu", pytest.param("cuda", marks=gpu)]


def experiment(method: str, seed: int, **changes: Any) -> ExperimentSpec:
    spec = {
        "name": "speed",
        "dataset": {"name": "synthetic", "params": {"num_classes": 5, "image_size": 16, "train_size": 300}},
        "teacher": {"model": "resnet8", "training": {"epochs": 1}},
        "student": {"model": {"name": "small_cnn", "params": {"width": 4}}},
        "methods": [method],
        "seeds": [seed],
        "training": {"epochs": 3, "batch_size": 32} | changes,
    }
    return parse_experiment(spec)


def run_spec(method: str = "ce", seed: int = 0, **changes: Any) -> RunSpec:
    return experiment(method, seed, **changes).plan()[-1].spec


def losses(folder: Path) -> list[float]:
    events = [record.event for record in read_journal(folder / JOURNAL_NAME)]
    return [event.values["train/loss"] for event in events if isinstance(event, Metrics)]


def log_text(folder: Path) -> str:
    events = [record.event for record in read_journal(folder / JOURNAL_NAME)]
    return "\n".join(event.message for event in events if isinstance(event, Log))


def synthetic(train_size: int = 300) -> Dataset:
    params = {"num_classes": 5, "image_size": 16, "train_size": train_size, "test_size": 50}
    return data.load(DatasetRef(name="synthetic", params=params), TrainingSettings.from_environment())
