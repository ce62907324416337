"""The table over many experiments: one row per setting, one column per method, bold only if a test supports it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from sqlalchemy.orm import Session

from backend.comparisons import costs, experiment_keys, gaps, metric_selection, same_data, statistics, verdicts
from backend.comparisons.comparison import refuse_unknown, teacher_summary
from backend.comparisons.convergence import ConvergenceTarget
from backend.comparisons.groups import ComparisonSpec, Method, methods_of, summarize_method
from backend.comparisons.published import published_beside, values_of
from backend.comparisons.run_data import ImageData, Key, Sample, load, merge
from backend.comparisons.selection import names_of, titles_of
from backend.comparisons.setting_differences import pooled
from backend.comparisons.tasks import other_tasks_note, task_named, task_of_experiment, tasks_of
from backend.db import models
from backend.errors import invalid
from common.formatting import SIGNIFICANCE, p_text
from core.catalog import TaskEntry
from core.catalog.datasets import task_of
from core.papers import TEACHER, PublishedNumber
from core.protocol.comparisons import EPOCH_CHOICES, EpochChoice
from core.protocol.public import ProblemField
from core.protocol.result_tables import ResultTable, TableCell, TableRow

Test = Literal["sign_flip", "t"]


@dataclass(frozen=True)
class Layout:
    """The content of the table.

    Attributes:
        metric: Name of the metric; empty for the headline metric of the task.
        task: Name of the task of the rows; empty for the one that is judged by the metric, or else the first's.
        which: Epoch of the values.
        baseline: Label of the column against which the others are tested; None for the first method of the rows.
        test: Test that decides which cells are bold.
        seeds: Seeds that every cell should have; empty for the seeds that the row's experiments plan.
    """

    metric: str = ""
    task: str = ""
    which: EpochChoice = "last"
    baseline: str | None = None
    test: Test = "sign_flip"
    seeds: Sequence[int] = ()

    @property
    def spec(self) -> ComparisonSpec:
        return ComparisonSpec(self.metric, self.which)


def table(session: Session, experiments: Sequence[models.Experiment], layout: Layout) -> ResultTable:
    """Return the table of these experiments; those that differ only in their seeds form one row.

    If no baseline is named and the rows do not begin with the same method, the baseline is the method of most rows.

    Raises:
        ApiError: 422 if no experiment has the baseline, or the metric or the task is unknown.
    """
    available = tasks_of(experiments)
    task = _task(layout, available)
    same_task: list[models.Experiment] = []
    others: list[models.Experiment] = []
    for item in dict.fromkeys(experiments):
        (same_task if task_of_experiment(item).name == task.name else others).append(item)
    loaded = list(load(session, same_task).values())
    layout = replace(layout, metric=layout.metric or task.headline)
    samples = [part for row in experiment_keys.group_rows(loaded) for part in same_data.split(merge(row))]
    labels = list(dict.fromkeys(label for sample in samples for label in sample.labels))
    baseline = _baseline(samples, labels, layout.baseline)
    pooled_sample = merge(loaded) if loaded else Sample((), (), ())
    selected = metric_selection.select_values(session, pooled_sample, layout.metric, layout.which)
    if loaded:
        refuse_unknown(session, pooled_sample, layout.spec, selected)
    run_costs = costs.costs_of_students(session, pooled_sample.students)
    rows = [_Row.of(sample, selected, layout, run_costs) for sample in samples]
    cells = [row.cells(baseline, labels, layout) for row in rows]
    _decide(cells, layout)
    titles = [row.title for row in rows]
    return ResultTable(
        metric=layout.metric,
        title=metric_selection.title_of(session, pooled_sample, [layout.metric])[layout.metric],
        unit=layout.spec.unit,
        better=layout.spec.better,
        task=task.name,
        tasks=[item.name for item in available],
        epoch=layout.which,
        test=layout.test,
        baseline=baseline,
        methods=labels,
        rows=[row.to_protocol(of_row, titles) for row, of_row in zip(rows, cells, strict=True)],
        tests=sum(cell.p is not None for of_row in cells for cell in of_row),
        notes=[
            *_notes(samples, cells, layout, baseline),
            *_row_notes(rows, titles),
            *other_tasks_note("This table", task, others),
        ],
    )


@dataclass(frozen=True)
class _Row:
    sample: Sample
    methods: Mapping[str, Method]
    keys: Sequence[Key]
    published: Sequence[PublishedNumber]
    run_costs: Mapping[str, costs.RunCost]

    @classmethod
    def of(
        cls,
        sample: Sample,
        selected: Mapping[str, metric_selection.SelectedValue],
        layout: Layout,
        run_costs: Mapping[str, costs.RunCost],
    ) -> _Row:
        spec = sample.spec
        blocks = dict.fromkeys(key[0] for key in sample.keys)
        requested = [(block, seed) for block in blocks for seed in layout.seeds]
        return cls(
            sample,
            methods_of(sample, selected, {}, ConvergenceTarget(1.0)),
            list(dict.fromkeys([*sample.keys, *requested])),
            [number for number in published_beside(spec) if number.metric == layout.metric],
            run_costs,
        )

    @property
    def title(self) -> str:
        dataset, teacher, student = titles_of(self.sample.spec)
        return f"{dataset} {f'{teacher}→' if teacher else ''}{student}"

    def unique_title(self, titles: Sequence[str]) -> str:
        """Return the title, with a distinguishing mark if other rows have the same title.

        Args:
            titles: Titles of all rows, this one included.
        """
        marks = [_experiment_names(self.sample)] if titles.count(self.title) > 1 else []
        if self.sample.data != ImageData():
            marks.append(same_data.describe(self.sample.data))
        return f"{self.title} ({'; '.join(marks)})" if marks else self.title

    def cells(self, baseline: str, labels: Sequence[str], layout: Layout) -> list[TableCell]:
        return [self._cell(label, baseline, layout) for label in labels if label in self.methods]

    def _cell(self, label: str, baseline: str, layout: Layout) -> TableCell:
        """Return the cell of a method: its values, and its paired differences to the baseline."""
        method = self.methods[label]
        summary = summarize_method(method, self.sample)
        method_values = method.values
        # A method that is decided gets no run for later seeds.
        needed = [key for key in self.keys if key in method.runs or not self.sample.grows]
        missing = [key for key in needed if key not in method_values]
        cost = costs.summarize(label, [run.run_id for run in method.runs.values()], self.run_costs)
        cell = TableCell(
            label=label,
            method=method.name,
            n=summary.n,
            mean=summary.mean,
            sd=summary.sd,
            interval=summary.interval,
            run_ids=[method.runs[key].run_id for key in self.keys if key in method_values],
            missing=gaps.gaps(method, self.sample, missing),
            published=values_of(number for number in self.published if number.is_of(self._choice(label))),
            cost=cost if cost.runs else None,
        )
        base = self.methods.get(baseline)
        if base is None or label == baseline:
            return cell
        baseline_values = base.values
        by_pair = {key: method_values[key] - baseline_values[key] for key in method_values if key in baseline_values}
        differences = statistics.by_block(by_pair)
        summary_of_differences = statistics.summarize(differences)
        changes: dict[str, Any] = {
            "pairs": len(by_pair),
            "units": summary_of_differences.n,
            "mean_difference": summary_of_differences.mean,
        }
        if layout.spec.tested and summary_of_differences.n and not self.sample.grows:
            test = statistics.sign_flip_p if layout.test == "sign_flip" else statistics.paired_t_p
            changes |= {"difference_interval": summary_of_differences.interval, "p": test(differences)}
        return cell.model_copy(update=changes)

    def _choice(self, label: str) -> Mapping[str, Any]:
        """Return the method with this label as the spec has it."""
        choices = (choice for item in self.sample.experiments for choice in item.spec["methods"])
        return next(choice for choice in choices if choice["label"] == label)

    def to_protocol(self, cells: list[TableCell], titles: Sequence[str]) -> TableRow:
        dataset, teacher, student = names_of(self.sample.spec)
        scores = [teacher.top1 for teacher in self.sample.teachers if teacher.top1 is not None]
        return TableRow(
            title=self.unique_title(titles),
            images=same_data.describe(self.sample.data) if self.sample.data != ImageData() else "",
            dataset=dataset,
            teacher=teacher,
            student=student,
            teacher_top1=math.fsum(scores) / len(scores) if scores else None,
            published=values_of(number for number in self.published if number.method == TEACHER),
            condition=teacher_summary(self.sample),
            experiments=[item.name for item in self.sample.experiments],
            seeds=sorted({seed for _, seed in self.keys}),
            teacher_seeds=[teacher.seed for teacher in self.sample.teachers],
            cells=cells,
            commands=gaps.commands(self.methods, self.sample, self.keys),
        )


def _decide(cells: list[list[TableCell]], layout: Layout) -> None:
    """Adjust the p values of the table together, and set the verdict of each cell; in place."""
    indices = [(row, column) for row, of_row in enumerate(cells) for column in range(len(of_row))]
    tests = [_test_of(cells[row][column], layout) for row, column in indices]
    for (row, column), decision in zip(indices, verdicts.decide(tests), strict=True):
        if decision.verdict is not None:
            verdict = decision.verdict if decision.verdict in ("better", "worse") else "unclear"
            changes = {"p_holm": decision.p_holm, "verdict": verdict}
            cells[row][column] = cells[row][column].model_copy(update=changes)


def _test_of(cell: TableCell, layout: Layout) -> verdicts.Test:
    smallest_p = statistics.smallest_p(cell.units) if layout.test == "sign_flip" else None
    interval = cell.difference_interval
    return verdicts.Test(cell.units, cell.mean_difference, cell.p, smallest_p, interval, layout.spec.better)


def _baseline(samples: Sequence[Sample], labels: Sequence[str], label: str | None) -> str:
    if label is not None and label not in labels and labels:
        text = f"no experiment has a method {label!r}; there are {', '.join(labels)}"
        raise invalid(text, ProblemField(path="baseline", message=text))
    if label is not None:
        return label
    first_methods = list(dict.fromkeys(next(iter(sample.labels)) for sample in samples))
    if len(first_methods) < 2:
        return first_methods[0] if first_methods else ""
    rows_with = Counter(label for sample in samples for label in sample.labels)
    return max(labels, key=lambda label: rows_with[label])  # if several have equally many rows, the first column


def _notes(samples: Sequence[Sample], cells: Sequence[Sequence[TableCell]], layout: Layout, baseline: str) -> list[str]:
    """Return the notes below the table, on the test, on missing values and on conditions of the results."""
    notes = [f"Mean ± sample standard deviation (n), {EPOCH_CHOICES[layout.which]}."]
    notes += dict.fromkeys(text for sample in samples for text in sample.misnamed)
    tested = [cell for row in cells for cell in row if cell.p is not None]
    if not layout.spec.tested:
        notes.append("Nothing is tested, so nothing is bold.")
    elif tested:
        name = "exact sign-flip test" if layout.test == "sign_flip" else "paired t test, for normal differences"
        notes.append(
            f"Bold: better than {baseline} over the same seeds ({name}, p < 0.05 after Holm over the {len(tested)} "
            "comparisons of this table); ↓: worse by the same test."
        )
        if layout.spec.better is None:
            notes.append("Neither direction is better for this metric, so nothing is bold.")
        elif layout.test == "sign_flip":
            notes += _no_bold_possible(tested)
    growing = [item.name for sample in samples for item in sample.experiments if item.decides]
    if growing:
        notes.append(
            f"Seeds were added until the comparisons were decided in {', '.join(growing)}: these rows are not tested "
            "here, and dkd compare shows their verdicts."
        )
    if layout.baseline is None and len({next(iter(sample.labels)) for sample in samples}) > 1:
        notes.append(f"No baseline was named: {baseline} is the method of most rows.")
    if any(not item.to_come for row in cells for cell in row for item in cell.missing):
        notes.append("Seeds are missing: see the commands that would queue them.")
    if any(sample.data != ImageData() for sample in samples):
        notes.append("The data of a setting changed between its runs: each data set is a separate row, named by it.")
    if any(sample.teachers_vary for sample in samples):
        notes.append("If teachers vary, mean and spread are those of the teachers' means.")
    conditional = [sample for sample in samples if sample.teachers and not sample.teachers_vary]
    if conditional:
        notes.append("Each row with one teacher is conditional on that teacher.")
    if not all(sample.complete for sample in samples):
        notes.append("Not every run has ended: these numbers will change.")
    if any(cell.published for row in cells for cell in row):
        notes.append(
            "Published numbers are as printed. Some are values of the best test epoch, which lie above those of the "
            "last epoch."
        )
    if any(not item.confirmed for row in cells for cell in row for item in cell.published):
        notes.append("Published numbers that are marked as unconfirmed were not compared with their source.")
    return notes


def _task(layout: Layout, available: Sequence[TaskEntry]) -> TaskEntry:
    """Return the task of the rows.

    Raises:
        ApiError: 422 if the chosen task is unknown.
    """
    if layout.task:
        return task_named(layout.task)
    judged = [task for task in available if task.headline == layout.metric]
    measuring = [task for task in available if layout.metric in {metric.name for metric in task.metrics}]
    return next(iter((*judged, *measuring, *available)), task_of(""))


def _row_notes(rows: Sequence[_Row], titles: Sequence[str]) -> list[str]:
    """Return notes on single rows, each with the title of its row."""
    return [
        f"{row.unique_title(titles)}: {note}"
        for row in rows
        for note in (*same_data.notes(row.sample), *pooled(row.sample))
    ]


def _experiment_names(sample: Sample) -> str:
    first, *others = [item.name for item in sample.experiments]
    return f"{first} and {len(others)} more" if others else first


def _no_bold_possible(tested: Sequence[TableCell]) -> list[str]:
    """Return a note with the required n, if there are too few pairs for any cell to be bold."""
    max_units = max(cell.units for cell in tested)
    vary = any(cell.units != cell.pairs for cell in tested)
    noun, needed_noun = ("pairs or teachers", "seeds or teachers") if vary else ("pairs", "seeds")
    smallest_p = statistics.smallest_p(max_units) or 1.0
    if smallest_p * len(tested) < SIGNIFICANCE:
        return []
    needed = max_units
    while 2.0 ** (1 - needed) * len(tested) >= SIGNIFICANCE:
        needed += 1
    return [
        f"No cell can be bold yet: {max_units} {noun} cannot show p < {p_text(smallest_p, 3)}, and Holm over "
        f"{len(tested)} comparisons requires less than {p_text(SIGNIFICANCE / len(tested))} for the first; "
        f"{needed} {needed_noun} could."
    ]
