"""The task of a run."""

from __future__ import annotations

from core.catalog import DATASETS, TASKS
from core.tasks.task import RunContext, Task


def load_task(context: RunContext) -> Task:
    """Read the data that a run's spec names, as the task of the data set.

    Raises:
        TrainingError: The data cannot be read, or do not fit the spec.
    """
    task: type[Task] = TASKS[DATASETS[context.spec.dataset.name].task].load()
    return task.load(context)
