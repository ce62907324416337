"""Published numbers, as printed, and the results measured here for the same networks and methods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from backend.comparisons import experiment_keys, metric_selection, same_data, statistics
from backend.comparisons.convergence import ConvergenceTarget
from backend.comparisons.groups import Method, methods_of, summarize_method
from backend.comparisons.run_data import Sample, load, merge
from backend.comparisons.selection import Filter, names_of, tagged
from backend.db import models
from core.papers import PAPERS, PUBLISHED_NUMBERS, TEACHER, PublishedNumber, source_notes
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
"""Names of data set, teacher and student."""
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
            source=number.source, method=number.method, value=number.value, repeats=number.runs, epoch=number.epoch
        )
        for number in numbers
    ]


@dataclass(frozen=True)
class _Measured:
    """A method that was trained on one setting.

    Attributes:
        choice: The method in the spec.
        dataset_params: Parameters of the data set.
        result: Its values.
    """

    choice: Mapping[str, Any]
    dataset_params: Mapping[str, Any]
    result: MeasuredResult

    def is_beside(self, number: PublishedNumber) -> bool:
        same_data = all(self.dataset_params.get(name, value) == value for name, value in number.dataset_params.items())
        return same_data and number.is_of(self.choice)


def beside_published(session: Session, selection: Filter) -> BesidePublished:
    """Return published numbers, each with the results measured here for the same networks and the same method.

    Args:
        session: Session for reading.
        selection: Selects the settings whose numbers are returned, and the experiments by their tags.
    """
    of_setting: dict[Setting, list[models.Experiment]] = {_setting(number): [] for number in PUBLISHED_NUMBERS}
    for experiment in tagged(session, selection.tags):
        if (setting := names_of(experiment.spec)) in of_setting:
            of_setting[setting].append(experiment)
    shown = [setting for setting in of_setting if selection.accepts(*setting)]
    measured = {setting: _measure(session, of_setting[setting]) if of_setting[setting] else [] for setting in shown}
    return BesidePublished(
        items=[
            protocol.PublishedNumber(
                source=number.source,
                reprinted=list(number.reprinted),
                dataset=number.dataset,
                teacher=number.teacher,
                student=number.student,
                printed=number.printed,
                method=number.method,
                value=number.value,
                repeats=number.runs,
                epoch=number.epoch,
                measured=[item.result for item in measured[_setting(number)] if item.is_beside(number)],
            )
            for number in PUBLISHED_NUMBERS
            if _setting(number) in measured
        ],
        settings=[
            PublishedSetting(dataset=setting[0], teacher=setting[1], student=setting[2], experiments=len(found))
            for setting, found in of_setting.items()
        ],
        sources=source_notes(),
    )


def _setting(number: PublishedNumber) -> Setting:
    return (number.dataset, number.teacher, number.student)


def _measure(session: Session, experiments: Sequence[models.Experiment]) -> list[_Measured]:
    """Return the results of every method of these experiments; those that differ only in their seeds are one."""
    loaded = list(load(session, list(experiments)).values())
    samples = [part for row in experiment_keys.group_rows(loaded) for part in same_data.split(merge(row))]
    selected = {
        which: metric_selection.select_values(session, merge(loaded), loaded[0].headline, which) for which in _EPOCHS
    }
    return [measured for sample in samples for measured in (*_teacher_of(sample), *_of_sample(sample, selected))]


def _teacher_of(sample: Sample) -> list[_Measured]:
    """Return the result of the sample's teachers, if one has succeeded; it is that of the last epoch."""
    values = [teacher.top1 for teacher in sample.teachers if teacher.top1 is not None]
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
        run_ids=[item.run_id for item in sample.teachers if item.top1 is not None],
    )
    return [_Measured({"name": TEACHER, "params": {}}, sample.spec["dataset"]["params"], result)]


def _of_sample(
    sample: Sample, selected: Mapping[EpochChoice, Mapping[str, metric_selection.SelectedValue]]
) -> list[_Measured]:
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
        found.append(_Measured(choice, sample.spec["dataset"]["params"], result))
    return found


def _value(method: Method, sample: Sample) -> MeasuredValue | None:
    summary = summarize_method(method, sample)
    return None if summary.mean is None else MeasuredValue(mean=summary.mean, sd=summary.sd, n=summary.n)
