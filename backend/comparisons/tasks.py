"""Refuses to compare results of different tasks, which are judged by different metrics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from backend.db import models
from backend.errors import invalid
from common.formatting import within_sentence
from core.catalog import METRICS, TASKS, TaskEntry, UnknownNameError
from core.catalog.datasets import task_of
from core.protocol.public import ProblemField


def task_of_experiment(experiment: models.Experiment) -> TaskEntry:
    """Return the task of an experiment's data set."""
    return task_of(experiment.spec["dataset"]["name"])


def tasks_of(experiments: Iterable[models.Experiment]) -> list[TaskEntry]:
    """Return the tasks of experiments, each once, in the order of the experiments."""
    return list({task.name: task for task in map(task_of_experiment, experiments)}.values())


def task_named(name: str) -> TaskEntry:
    """Return a task of the catalog.

    Raises:
        ApiError: 422 if there is none with this name.
    """
    if name not in TASKS:
        text = str(UnknownNameError("task", name, {entry.name: () for entry in TASKS}))
        raise invalid(text, ProblemField(path="task", message=text))
    return TASKS[name]


def other_tasks_note(report: str, task: TaskEntry, others: Sequence[models.Experiment]) -> list[str]:
    """Return a sentence about experiments that a report leaves out because they are of other tasks; none without any.

    Args:
        report: The report within a sentence, as "This table".
        task: The task of the report.
        others: The experiments that it leaves out.
    """
    if not others:
        return []
    titles = " and ".join(title_of(item) for item in tasks_of(others))
    count = f"{len(others)} experiment is" if len(others) == 1 else f"{len(others)} experiments are"
    left_out = f"{count} left out, of {titles}: results of different tasks are not compared."
    return [f"{report} is of {title_of(task)}. {left_out}"]


def title_of(task: TaskEntry) -> str:
    """Return the title of a task within a sentence, as "object detection"."""
    return within_sentence(task.title)


def headline_title(task: TaskEntry) -> str:
    """Return the title of the metric that results of a task are judged by within a sentence, as "test accuracy"."""
    return within_sentence(METRICS[task.headline].title)


def refuse_several_tasks(experiments: Iterable[models.Experiment]) -> None:
    """Refuse experiments of different tasks.

    Raises:
        ApiError: 422; the answer names an experiment of each of two tasks.
    """
    first_of: dict[str, models.Experiment] = {}
    for experiment in experiments:
        first_of.setdefault(task_of_experiment(experiment).name, experiment)
    if len(first_of) > 1:
        one, other = list(first_of.values())[:2]
        text = f"{_words(one)}, and {_words(other)}; results of different tasks are not compared"
        raise invalid(text, ProblemField(path="experiment", message=text))


def _words(experiment: models.Experiment) -> str:
    task = task_of_experiment(experiment)
    dataset = experiment.spec["dataset"]["name"]
    return f"{experiment.name} is {title_of(task)} on {dataset}, judged by {headline_title(task)}"
