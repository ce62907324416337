"""The metrics that a training reports: those of the tasks and of the methods, each described by its owner."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from core.catalog.methods import METHODS, MethodEntry
from core.catalog.metric import Metric
from core.catalog.tasks import ROBUSTNESS, TASKS, TaskEntry

__all__ = ["METRICS", "ROBUSTNESS", "Metric", "count_metrics", "describe_metrics", "metric_spellings"]


class _AllMetrics(Mapping[str, Metric]):
    """Every metric by name, including those of plug-ins, which may add entries at any time.

    Metrics of methods follow those of the training. Most belong there, and the diagnostics are a long list. A metric of
    a class is found by its name, but not listed, because its name depends on the data set.
    """

    def __init__(self) -> None:
        self._entries: list[TaskEntry | MethodEntry] = []
        self._known: dict[str, Metric] = {}

    def _by_name(self) -> dict[str, Metric]:
        """Return all metrics by name: those of the training, those of methods, then the other metrics of tasks."""
        entries = [*TASKS, *METHODS]
        if entries != self._entries:
            # Entries that share a metric describe it equally: see ``MethodRegistry.add``.
            training_metrics: list[Metric] = []
            others: list[Metric] = []
            for task in TASKS:
                last = max(
                    (at for at, metric in enumerate(task.metrics) if metric.name.startswith("train/")), default=-1
                )
                training_metrics += task.metrics[: last + 1]
                others += task.metrics[last + 1 :]
            method_metrics = [metric for method in METHODS for metric in method.metrics]
            method_metrics += [metric for method in METHODS for metric in method.share_metrics]
            method_metrics += [metric for method in METHODS for metric in method.background_metrics]
            listed = [*training_metrics, *method_metrics, *others]
            self._known = {metric.name: metric for metric in listed}
            self._entries = entries
        return self._known

    def __getitem__(self, name: str) -> Metric:
        metric = self._by_name().get(name)
        return metric or _of_class(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name())

    def __len__(self) -> int:
        return len(self._by_name())


def _of_class(name: str) -> Metric:
    """Return the metric of one class of a data set."""
    for family in (family for task in TASKS for family in task.families):
        if len(name) > len(family.name) and name.startswith(family.name):
            return replace(family, name=name, title=family.title.format(name.removeprefix(family.name)))
    raise KeyError(name)


METRICS: Mapping[str, Metric] = _AllMetrics()


def count_metrics() -> set[str]:
    """Return the metrics that count the images of other metrics.

    They describe the teacher, and are shown but not compared.
    """
    return {metric.of for metric in METRICS.values() if metric.of}


def metric_spellings() -> dict[str, tuple[str, ...]]:
    """Return the names of the metrics, each with its other spellings and synonyms."""
    return {name: (metric.title, name.rpartition("/")[2], *metric.aliases) for name, metric in METRICS.items()}


def describe_metrics() -> list[dict[str, Any]]:
    """Return every known metric as JSON."""
    return [metric.describe() for metric in METRICS.values()]
