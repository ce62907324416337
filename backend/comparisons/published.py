"""Published numbers, as printed, and the results measured here for the same networks and methods."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from backend.comparisons import experiment_keys, metric_selection, same_data, statistics
from backend.comparisons.convergence import ConvergenceTarget
from backend.comparisons.groups import Method, methods_of, summarize_method
from backend.comparisons.run_data import LatestPoint, Sample, latest, load, merge
from backend.comparisons.selection import Filter, names_of, tagged, titles_of
from backend.db import models
from core.catalog.models import network_title
from core.papers import PAPERS, PUBLISHED_NUMBERS, TEACHER, PublishedNumber, published_for, source_notes
from core.protocol import result_tables as protocol
from core.protocol.comparisons import EpochChoice
from core.protocol.result_tables import (
    BesidePublished,
    MeasuredResult,
    MeasuredValue,
    PublishedSetting,
    PublishedTable,
    PublishedValue,
)

Setting = tuple[str, str, str]
"""Name of the data set, and titles of teacher and student."""
_EPOCHS: tuple[EpochChoice, ...] = ("last", "oracle")


def published() -> PublishedTable:
    """Return the rows of the papers' own tables, as printed."""
    rows = [
        protocol.PublishedRow(
            source=row.source,
            dataset=row.dataset,
            teacher=row.teacher,
            student=row.student,
            values=[
                PublishedValue(
                    source=row.source,
                    method=method,
                    value=value,
                    repeats=row.repeats.get(method),
                    epoch=row.epoch.get(method),
                )
                for method, value in row.values.items()
            ],
            method=paper.method,
            baseline=paper.baseline,
        )
        for paper in PAPERS.values()
        for row in paper.published
    ]
    return PublishedTable(rows=rows)


def values_of(numbers: Iterable[PublishedNumber]) -> list[PublishedValue]:
    """Return published numbers as the cells of a table have them."""
    return [
        PublishedValue(
            source=number.source,
            method=number.method,
            value=number.value,
            repeats=number.runs,
            epoch=number.epoch,
            confirmed=number.confirmed,
        )
        for number in numbers
    ]


def published_beside(spec: Mapping[str, Any]) -> list[PublishedNumber]:
    """Return the published numbers of the networks and the data set of a stored spec."""
    dataset, teacher, student = names_of(spec)
    teacher_params = spec["teacher"]["model"]["params"] if spec.get("teacher") else {}
    student_params = spec["student"]["model"]["params"]
    return published_for(dataset, spec["dataset"]["params"], teacher, student, teacher_params, student_params)


@dataclass(frozen=True)
class _Measured:
    """A method that was trained on one setting.

    Attributes:
        choice: The method in the spec.
        dataset_params: Parameters of the data set.
        metric: Name of the metric.
        result: Its values.
    """

    choice: Mapping[str, Any]
    dataset_params: Mapping[str, Any]
    metric: str
    result: MeasuredResult

    def is_beside(self, number: PublishedNumber) -> bool:
        same_data = all(self.dataset_params.get(name, value) == value for name, value in number.dataset_params.items())
        return same_data and number.metric == self.metric and number.is_of(self.choice)


def beside_published(session: Session, selection: Filter) -> BesidePublished:
    """Return published numbers, each with the results measured here for the same networks and the same method.

    Args:
        session: Session for reading.
        selection: Selects the settings whose numbers are returned, and the experiments by their tags.
    """
    experiments_of: dict[Setting, list[models.Experiment]] = {_setting(number): [] for number in PUBLISHED_NUMBERS}
    for experiment in tagged(session, selection.tags):
        if (setting := titles_of(experiment.spec)) in experiments_of:
            experiments_of[setting].append(experiment)
    metrics_of: dict[Setting, dict[str, None]] = {}
    for number in PUBLISHED_NUMBERS:
        if _accepts(selection, number):
            metrics_of.setdefault(_setting(number), {})[number.metric] = None
    measured = {
        setting: _measure(session, experiments_of[setting], list(names)) if experiments_of[setting] else []
        for setting, names in metrics_of.items()
    }
    return BesidePublished(
        items=[
            protocol.PublishedNumber(
                source=number.source,
                reprinted=list(number.reprinted),
                dataset=number.dataset,
                teacher=network_title(number.teacher, number.teacher_params),
                student=network_title(number.student, number.student_params),
                metric=number.metric,
                printed=number.printed,
                method=number.method,
                value=number.value,
                repeats=number.runs,
                epoch=number.epoch,
                confirmed=number.confirmed,
                measured=[item.result for item in measured[_setting(number)] if item.is_beside(number)],
            )
            for number in PUBLISHED_NUMBERS
            if _setting(number) in measured
        ],
        settings=[
            PublishedSetting(dataset=setting[0], teacher=setting[1], student=setting[2], experiments=len(found))
            for setting, found in experiments_of.items()
        ],
        sources=source_notes(),
    )


def _setting(number: PublishedNumber) -> Setting:
    teacher = network_title(number.teacher, number.teacher_params)
    return (number.dataset, teacher, network_title(number.student, number.student_params))


def _accepts(selection: Filter, number: PublishedNumber) -> bool:
    """Return whether the filter selects a number; a network may be given by its name alone or with its variant."""
    names = (number.dataset, number.teacher, number.student)
    return selection.accepts(*names) or selection.accepts(*_setting(number))


def _measure(session: Session, experiments: Sequence[models.Experiment], metrics: Sequence[str]) -> list[_Measured]:
    """Return the results of every method of these experiments; those that differ only in their seeds are one."""
    loaded = list(load(session, list(experiments)).values())
    samples = [part for row in experiment_keys.group_rows(loaded) for part in same_data.split(merge(row))]
    pooled, found = merge(loaded), []
    newest = latest(session, [teacher.run_id for teacher in pooled.teachers], metrics)
    for metric in metrics:
        selected = {which: metric_selection.select_values(session, pooled, metric, which) for which in _EPOCHS}
        for sample in samples:
            found += [*_teacher_of(sample, metric, newest), *_of_sample(sample, metric, selected)]
    return found


def _teacher_of(sample: Sample, metric: str, newest: Mapping[str, Mapping[str, LatestPoint]]) -> list[_Measured]:
    """Return the result of the sample's teachers, if one has succeeded; it is that of the last epoch."""
    # A teacher without a headline result has not succeeded, or was tested on other images.
    judged = [teacher.run_id for teacher in sample.teachers if teacher.top1 is not None]
    points = {run_id: newest[run_id][metric].value for run_id in judged if metric in newest.get(run_id, {})}
    values = [value for value in points.values() if math.isfinite(value)]
    if not values:
        return []
    summary = statistics.summarize(values)
    teacher = sample.spec["teacher"]
    trained = not teacher.get("weights") or teacher["weights"].get("fine_tune")
    result = MeasuredResult(
        label=TEACHER,
        experiments=[item.name for item in sample.experiments],
        epochs=(teacher.get("training") or sample.spec["training"])["epochs"] if trained else 0,
        last=None if summary.mean is None else MeasuredValue(mean=summary.mean, sd=summary.sd, n=summary.n),
        run_ids=list(points),
    )
    return [_Measured({"name": TEACHER, "params": {}}, sample.spec["dataset"]["params"], metric, result)]


def _of_sample(
    sample: Sample, metric: str, selected: Mapping[EpochChoice, Mapping[str, metric_selection.SelectedValue]]
) -> list[_Measured]:
    """Return the results of the methods of one sample that have a value, at the last and at the best epoch."""
    target = ConvergenceTarget(1.0)
    methods = {which: methods_of(sample, values, {}, target) for which, values in selected.items()}
    choices = {choice["label"]: choice for item in sample.experiments for choice in item.spec["methods"]}
    names = [item.name for item in sample.experiments]
    found = []
    for label, choice in choices.items():
        method = methods["last"][label]
        if not method.values:
            continue
        result = MeasuredResult(
            label=label,
            experiments=names,
            epochs=max(run.epochs for run in method.runs.values()),
            last=_value(method, sample),
            oracle=_value(methods["oracle"][label], sample),
            run_ids=[method.runs[key].run_id for key in method.values],
        )
        found.append(_Measured(choice, sample.spec["dataset"]["params"], metric, result))
    return found


def _value(method: Method, sample: Sample) -> MeasuredValue | None:
    summary = summarize_method(method, sample)
    return None if summary.mean is None else MeasuredValue(mean=summary.mean, sd=summary.sd, n=summary.n)
