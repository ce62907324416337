"""Columns of a leaderboard: settings with the values of the methods, and the ranks within their common seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from sqlalchemy.orm import Session

from backend.comparisons import experiment_keys, metric_selection, ranks, same_data
from backend.comparisons.convergence import ConvergenceTarget
from backend.comparisons.groups import ComparisonSpec, Method, methods_of
from backend.comparisons.leaderboard_names import MethodRow, RowKey, distinct
from backend.comparisons.metric_selection import SelectedValue
from backend.comparisons.run_data import ImageData, Key, Sample, load, merge
from backend.comparisons.selection import titles_of
from backend.db import models


@dataclass(frozen=True)
class RowSample(Sample):
    """A sample whose students are labelled with the rows of the leaderboard.

    Attributes:
        names: Name in the catalog of each row.
    """

    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.names)


@dataclass(frozen=True)
class Column:
    """A setting.

    Attributes:
        title: Unique title.
        sample: Its runs.
        spec: The metric of the values.
        methods: Methods by the label of their rows.
    """

    title: str
    sample: RowSample
    spec: ComparisonSpec
    methods: Mapping[str, Method]

    @property
    def higher_is_better(self) -> bool:
        return self.spec.better != "lower"

    def common_keys(self, labels: Sequence[str]) -> list[Key]:
        """Return the pairs for which all of these methods have a value."""
        if not all(label in self.methods for label in labels):
            return []
        values = [self.methods[label].values for label in labels]
        return [key for key in self.sample.keys if all(key in of_method for of_method in values)]

    def unit_ranks(self, labels: Sequence[str]) -> list[list[float]]:
        """Return the ranks of these methods, a row per seed; if teachers vary, the mean row of each teacher."""
        return self._by_unit(
            {
                key: ranks.ranks_of(row, higher_is_better=self.higher_is_better)
                for key, row in self._rows(labels).items()
            }
        )

    def unit_values(self, labels: Sequence[str]) -> list[list[float]]:
        """Return the values of these methods by unit, greater ones better."""
        sign = 1 if self.higher_is_better else -1
        return self._by_unit({key: [sign * value for value in row] for key, row in self._rows(labels).items()})

    def _rows(self, labels: Sequence[str]) -> dict[Key, list[float]]:
        values = [self.methods[label].values for label in labels]
        return {key: [of_method[key] for of_method in values] for key in self.common_keys(labels)}

    def _by_unit(self, rows: Mapping[Key, list[float]]) -> list[list[float]]:
        blocks: dict[str, list[list[float]]] = {}
        for (block, _), row in rows.items():
            blocks.setdefault(block, []).append(row)
        return list(rows.values()) if len(blocks) < 2 else [ranks.mean_row(block) for block in blocks.values()]


def columns(
    session: Session, experiments: Sequence[models.Experiment], rows: Mapping[RowKey, MethodRow]
) -> list[Column]:
    """Return the settings of experiments of one task, in an order that does not depend on that of the experiments."""
    loaded = load(session, experiments)
    by_setting: dict[str, list[Sample]] = {}
    for sample in loaded.values():
        by_setting.setdefault(json.dumps(experiment_keys.setting(sample.spec), sort_keys=True), []).append(sample)
    ordered = sorted(by_setting)
    titles = distinct(
        [_title(by_setting[setting][0]) for setting in ordered], [json.loads(setting) for setting in ordered]
    )
    parts: list[tuple[str, RowSample]] = []
    for title, setting in zip(titles, ordered, strict=True):
        for part in same_data.split(_with_rows(merge(by_setting[setting]), rows)):
            assert isinstance(part, RowSample)  # it is a copy of the sample
            images = f" ({same_data.describe(part.data)})" if part.data != ImageData() else ""
            parts.append((f"{title}{images}", part))
    selected = _selected(session, [part for _, part in parts])
    found = [
        Column(
            title,
            part,
            ComparisonSpec(part.headline, by_looks=part.grows),
            methods_of(part, selected, {}, ConvergenceTarget(1.0)),
        )
        for title, part in parts
    ]
    return sorted(found, key=lambda column: column.title)


def _with_rows(sample: Sample, rows: Mapping[RowKey, MethodRow]) -> RowSample:
    ids = {item.name: item.id for item in sample.experiments}
    own = [
        rows[item.id, choice["label"]]
        for item in sample.experiments
        for choice in item.spec["methods"]
        if (item.id, choice["label"]) in rows
    ]
    students = [
        replace(student, label=rows[key].label)
        for student in sample.students
        if (key := (ids[student.experiment], student.label)) in rows
    ]
    return RowSample(
        sample.experiments,
        tuple(students),
        sample.teachers,
        sample.data,
        {row.label: row.name for row in own},
    )


def _title(sample: Sample) -> str:
    dataset, teacher, student = titles_of(sample.spec)
    return f"{dataset} {f'{teacher}→' if teacher else ''}{student}"


def _selected(session: Session, samples: Sequence[RowSample]) -> dict[str, SelectedValue]:
    """Return the value of every run after its last epoch, by a few queries for each metric."""
    by_metric: dict[str, list[Sample]] = {}
    for sample in samples:
        by_metric.setdefault(sample.headline, []).append(sample)
    return {
        run_id: value
        for metric, members in by_metric.items()
        for run_id, value in metric_selection.select_values(session, merge(members), metric, "last").items()
    }
