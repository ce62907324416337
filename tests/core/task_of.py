"""A classification task for tests that need one without a whole run."""

from __future__ import annotations

from core.settings import TrainingSettings
from core.specs import parse_experiment
from core.tasks.classification import data
from core.tasks.classification.data import Dataset
from core.tasks.classification.task import ClassificationTask
from core.tasks.task import RunContext

SPEC = {
    "name": "a",
    "dataset": "synthetic",
    "student": {"model": "small_cnn"},
    "methods": ["ce"],
    "seeds": [0],
    "training": {"epochs": 1},
}


def task_of(dataset: Dataset | None = None) -> ClassificationTask:
    """Return the task of a data set, or of the default synthetic images."""
    run = parse_experiment(SPEC).plan()[0].spec
    settings = TrainingSettings()
    return ClassificationTask(RunContext(run, settings, lambda *_: None), dataset or data.load(run.dataset, settings))
