"""The task of a run."""

from __future__ import annotations

from core.tasks.classification.task import ClassificationTask
from core.tasks.task import RunContext, Task


def load_task(context: RunContext) -> Task:
    """Read the data that a run's spec names, as the task of the data set.

    Raises:
        TrainingError: The data cannot be read, or do not fit the spec.
    """
    return ClassificationTask.load(context)
