"""The paper's table over many experiments: a row a setting, a column a method, bold only where a test supports it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.comparisons import experiment_keys, gaps, metric_selection, same_data, statistics, verdicts
from backend.comparisons.compare import Options, refuse_unknown, teacher_summary
from backend.comparisons.convergence import Goal
from backend.comparisons.groups import Method, Question, group, methods_of
from backend.comparisons.run_data import Data, Key, Sample, load, merged
from backend.comparisons.setting_differences import pooled
from backend.db import models
from backend.errors import invalid
from common.formatting import SIGNIFICANCE, p_text
from core.papers import PUBLISHED, PublishedRow, published_for
from core.protocol import comparisons as wire
from core.protocol.comparisons import (
    EPOCH_CHOICES,
    EpochChoice,
    PublishedTable,
    PublishedValue,
    ResultTable,
    TableCell,
    TableRow,
)
from core.protocol.public import ProblemField

Test = Literal["sign_flip", "t"]
MOST_EXPERIMENTS = 500


@dataclass(frozen=True)
class Filter:
    """Which experiments are in the table; a filter that is left out keeps all.

    Attributes:
        tags: an experiment needs every one of them now, whatever its spec came with.
        dataset, student, teacher: names in the catalog.
    """

    tags: Sequence[str] = ()
    dataset: str | None = None
    student: str | None = None
    teacher: str | None = None


@dataclass(frozen=True)
class Layout:
    """What the table shows.

    Attributes:
        baseline: label of the column that others are tested against; None where all experiments begin with one method.
        seeds: that every cell should have; () for those that the row's experiments plan.
    """

    metric: str
    which: EpochChoice = "last"
    baseline: str | None = None
    test: Test = "sign_flip"
    seeds: Sequence[int] = ()

    @property
    def question(self) -> Question:
        return Question(self.metric, self.which)


def find(session: Session, wanted: Filter, named: Sequence[models.Experiment] | None = None) -> list[models.Experiment]:
    """The experiments that the filter keeps, of all that are not archived or of those that are named.

    All are in the order in which they were made; those that are named stay in theirs. Raises ApiError 422 where they
    are too many for a table.
    """
    query = select(models.Experiment).order_by(models.Experiment.id)
    if named is None:
        query = query.where(models.Experiment.archived_at.is_(None))
    for tag in wanted.tags:  # as they are now: the spec keeps those that it came with
        tagged = select(models.ExperimentTag.experiment_id).where(models.ExperimentTag.tag == tag)
        query = query.where(models.Experiment.id.in_(tagged))
    found = [item for item in session.scalars(query) if _kept(item.spec, wanted)]
    if named is not None:
        keys = {item.id for item in found}
        found = [item for item in named if item.id in keys]
    if len(found) > MOST_EXPERIMENTS:
        text = f"{len(found)} experiments are more than the {MOST_EXPERIMENTS} of one table; keep fewer by tag or name"
        raise invalid(text, ProblemField(path="tag", message=text))
    return found


def table(session: Session, experiments: Sequence[models.Experiment], layout: Layout) -> ResultTable:
    """The table of these experiments; those that differ in their seeds alone are one row.

    Where no baseline is named and the rows do not begin with the same method, it is the one that most rows have.
    Raises ApiError 422 for a baseline that is in none of them, and for an unknown metric.
    """
    loaded = list(load(session, list(dict.fromkeys(experiments))).values())
    samples = [part for row in experiment_keys.grouped(loaded) for part in same_data.split(merged(row))]
    labels = list(dict.fromkeys(label for sample in samples for label in sample.labels))
    baseline = _baseline(samples, labels, layout.baseline)
    every = merged(loaded) if loaded else Sample((), (), ())
    picked = metric_selection.pick(session, every, layout.metric, layout.which)
    if loaded:
        refuse_unknown(session, every, Options(metric=layout.metric, which=layout.which), picked)
    made = [_Row.of(sample, picked, layout) for sample in samples]
    cells = [row.cells(baseline, labels, layout) for row in made]
    _decide(cells, layout)
    titles = [row.title for row in made]
    return ResultTable(
        metric=layout.metric,
        title=metric_selection.title_of(session, every, [layout.metric])[layout.metric],
        unit=layout.question.unit,
        better=layout.question.better,
        epoch=layout.which,
        test=layout.test,
        baseline=baseline,
        methods=labels,
        rows=[row.wire(found, titles) for row, found in zip(made, cells, strict=True)],
        tests=sum(cell.p is not None for found in cells for cell in found),
        notes=_notes(samples, cells, layout, baseline) + _of_rows(made, titles),
    )


@dataclass(frozen=True)
class _Row:
    sample: Sample
    methods: Mapping[str, Method]
    keys: Sequence[Key]
    published: Sequence[PublishedRow]

    @classmethod
    def of(cls, sample: Sample, picked: Mapping[str, metric_selection.Picked], layout: Layout) -> _Row:
        spec = sample.spec
        blocks = dict.fromkeys(key[0] for key in sample.keys)
        wanted = [(block, seed) for block in blocks for seed in layout.seeds]
        teacher = spec["teacher"]["model"]["name"] if spec.get("teacher") else ""
        student = spec["student"]["model"]["name"]
        dataset = spec["dataset"]
        return cls(
            sample,
            methods_of(sample, picked, {}, Goal(1.0)),
            list(dict.fromkeys([*sample.keys, *wanted])),
            published_for(dataset["name"], dataset["params"], teacher, student) if layout.metric == "test/top1" else (),
        )

    @property
    def title(self) -> str:
        spec = self.sample.spec
        student = spec["student"]["model"]["name"]
        teacher = spec["teacher"]["model"]["name"] if spec.get("teacher") else None
        return f"{spec['dataset']['name']} {f'{teacher}→' if teacher else ''}{student}"

    def told_apart(self, titles: Sequence[str]) -> str:
        """The title, with what tells the row from others of the same title.

        Args:
            titles: of all rows, this one among them.
        """
        marks = [_named(self.sample)] if titles.count(self.title) > 1 else []
        if self.sample.data != Data():
            marks.append(same_data.words(self.sample.data))
        return f"{self.title} ({'; '.join(marks)})" if marks else self.title

    def cells(self, baseline: str, labels: Sequence[str], layout: Layout) -> list[TableCell]:
        return [self._cell(label, baseline, layout) for label in labels if label in self.methods]

    def _cell(self, label: str, baseline: str, layout: Layout) -> TableCell:
        method = self.methods[label]
        summary = group(method, self.sample)
        mine = method.values
        lacking = [key for key in self.keys if key not in mine]
        cell = TableCell(
            label=label,
            n=summary.n,
            mean=summary.mean,
            sd=summary.sd,
            interval=summary.interval,
            run_ids=[method.runs[key].run_id for key in self.keys if key in mine],
            missing=gaps.holes(method, self.sample, lacking),
            published=_published(self.published, method.name),
        )
        base = self.methods.get(baseline)
        if base is None or label == baseline:
            return cell
        theirs = base.values
        by_pair = {key: mine[key] - theirs[key] for key in mine if key in theirs}
        differences = statistics.by_block(by_pair)
        found = statistics.summarize(differences)
        changes: dict[str, Any] = {"pairs": len(by_pair), "units": found.n, "mean_difference": found.mean}
        if layout.question.tested and found.n:
            test = statistics.sign_flip_p if layout.test == "sign_flip" else statistics.paired_t_p
            changes |= {"difference_interval": found.interval, "p": test(differences)}
        return cell.model_copy(update=changes)

    def wire(self, cells: list[TableCell], titles: Sequence[str]) -> TableRow:
        spec = self.sample.spec
        tops = [teacher.top1 for teacher in self.sample.teachers if teacher.top1 is not None]
        return TableRow(
            title=self.told_apart(titles),
            images=same_data.words(self.sample.data) if self.sample.data != Data() else "",
            dataset=spec["dataset"]["name"],
            teacher=spec["teacher"]["model"]["name"] if spec.get("teacher") else "",
            student=spec["student"]["model"]["name"],
            teacher_top1=math.fsum(tops) / len(tops) if tops else None,
            published=_published(self.published, "teacher"),
            condition=teacher_summary(self.sample),
            experiments=[item.name for item in self.sample.experiments],
            seeds=sorted({seed for _, seed in self.keys}),
            teacher_seeds=[teacher.seed for teacher in self.sample.teachers],
            cells=cells,
            commands=gaps.commands(self.methods, self.sample, self.keys),
        )


def _decide(cells: list[list[TableCell]], layout: Layout) -> None:
    """Adjust every p of the table at once, in place, and say of each cell what remains."""
    places = [(row, column) for row, found in enumerate(cells) for column in range(len(found))]
    tests = [_test_of(cells[row][column], layout) for row, column in places]
    for (row, column), decision in zip(places, verdicts.decide(tests), strict=True):
        if decision.verdict is not None:
            verdict = decision.verdict if decision.verdict in ("better", "worse") else "unclear"
            changes = {"p_holm": decision.p_holm, "verdict": verdict}
            cells[row][column] = cells[row][column].model_copy(update=changes)


def _test_of(cell: TableCell, layout: Layout) -> verdicts.Test:
    least = statistics.smallest_p(cell.units) if layout.test == "sign_flip" else None
    interval = cell.difference_interval
    return verdicts.Test(cell.units, cell.mean_difference, cell.p, least, interval, layout.question.better)


def _baseline(samples: Sequence[Sample], labels: Sequence[str], wanted: str | None) -> str:
    if wanted is not None and wanted not in labels and labels:
        text = f"no experiment has a method {wanted!r}; there are {', '.join(labels)}"
        raise invalid(text, ProblemField(path="baseline", message=text))
    if wanted is not None:
        return wanted
    first = list(dict.fromkeys(next(iter(sample.labels)) for sample in samples))
    if len(first) < 2:
        return first[0] if first else ""
    rows_with = Counter(label for sample in samples for label in sample.labels)
    return max(labels, key=lambda label: rows_with[label])  # of several, the first column


def published() -> PublishedTable:
    """All that others have published, as printed."""
    rows = [
        wire.PublishedRow(
            source=row.source,
            dataset=row.dataset,
            teacher=row.teacher,
            student=row.student,
            values=[value for method in row.values for value in _published([row], method)],
        )
        for row in PUBLISHED
    ]
    return PublishedTable(rows=rows)


def _published(found: Sequence[PublishedRow], method: str) -> list[PublishedValue]:
    return [
        PublishedValue(
            source=row.source,
            method=method,
            value=row.values[method],
            repeats=row.repeats.get(method),
            epoch=row.epoch.get(method),
        )
        for row in found
        if method in row.values
    ]


def _kept(spec: Mapping[str, Any], wanted: Filter) -> bool:
    teacher = spec["teacher"]["model"]["name"] if spec.get("teacher") else None
    named = (
        (wanted.dataset, spec["dataset"]["name"]),
        (wanted.student, spec["student"]["model"]["name"]),
        (wanted.teacher, teacher),
    )
    return all(want is None or want == have for want, have in named)


def _notes(samples: Sequence[Sample], cells: Sequence[Sequence[TableCell]], layout: Layout, baseline: str) -> list[str]:
    question = layout.question
    found = [f"Mean ± sample standard deviation (n), {EPOCH_CHOICES[layout.which]}."]
    found += dict.fromkeys(text for sample in samples for text in sample.misnamed)
    tested = [cell for row in cells for cell in row if cell.p is not None]
    if not question.tested:
        found.append("Nothing is tested, so nothing is bold.")
    elif tested:
        name = "exact sign-flip test" if layout.test == "sign_flip" else "paired t test, for normal differences"
        found.append(
            f"Bold: better than {baseline} over the same seeds ({name}, p < 0.05 after Holm over the {len(tested)} "
            "comparisons of this table); ↓: worse by the same test."
        )
        if question.better is None:
            found.append("Neither way is better for this metric, so nothing is bold.")
        elif layout.test == "sign_flip":
            found += _out_of_reach(tested)
    if layout.baseline is None and len({next(iter(sample.labels)) for sample in samples}) > 1:
        found.append(f"No baseline was named: {baseline} is what most rows have.")
    if any(cell.missing for row in cells for cell in row):
        found.append("Seeds are missing: see the commands that would queue them.")
    if any(sample.data != Data() for sample in samples):
        found.append("The data of a setting changed between its runs: each data set is a row of its own, named by it.")
    if any(sample.teachers_vary for sample in samples):
        found.append("Where teachers vary, mean and spread are of the teachers' means.")
    conditional = [sample for sample in samples if sample.teachers and not sample.teachers_vary]
    if conditional:
        found.append("Each row with one teacher is conditional on that teacher.")
    if not all(sample.complete for sample in samples):
        found.append("Not every run has ended: these numbers will change.")
    if any(cell.published for row in cells for cell in row):
        found.append(
            "Published numbers stand as printed; DKD's own are means of 5 best test epochs, which lie above last ones."
        )
    return found


def _of_rows(made: Sequence[_Row], titles: Sequence[str]) -> list[str]:
    """What a reader must know of single rows, each named as the table names it."""
    return [
        f"{row.told_apart(titles)}: {note}"
        for row in made
        for note in (*same_data.notes(row.sample), *pooled(row.sample))
    ]


def _named(sample: Sample) -> str:
    """Which experiments a row is of."""
    first, *others = [item.name for item in sample.experiments]
    return f"{first} and {len(others)} more" if others else first


def _out_of_reach(tested: Sequence[TableCell]) -> list[str]:
    """Where no cell could be bold whatever the numbers: which n it would take."""
    most = max(cell.units for cell in tested)
    vary = any(cell.units != cell.pairs for cell in tested)
    noun, more = ("pairs or teachers", "seeds or teachers") if vary else ("pairs", "seeds")
    least = statistics.smallest_p(most) or 1.0
    if least * len(tested) < SIGNIFICANCE:
        return []
    needed = most
    while 2.0 ** (1 - needed) * len(tested) >= SIGNIFICANCE:
        needed += 1
    return [
        f"No cell can be bold yet: {most} {noun} cannot show p < {p_text(least, 3)}, and Holm over {len(tested)} "
        f"comparisons asks for less than {p_text(SIGNIFICANCE / len(tested))} of the first; {needed} {more} could."
    ]
