"""The overview: all metrics that students have measured, each compared in the same way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.comparisons import metric_selection, verdicts
from backend.comparisons.comparison import baseline_of, caveats, convergence_target, sample_of, teacher_summary
from backend.comparisons.groups import ComparisonSpec, Method, methods_of, paired, summarize_method, test_of
from backend.comparisons.run_data import Sample
from backend.db import models
from common.formatting import SIGNIFICANCE, p_text
from core.catalog import METRICS
from core.catalog.metrics import count_metrics
from core.protocol.comparison_queries import METRIC_GROUPS, ComparisonOptions
from core.protocol.comparisons import EPOCH_CHOICES, Overview, OverviewCell, OverviewRow

_TEACHER_SUFFIXES = ("_teacher", "_teacher_drop")


def overview(
    session: Session,
    experiments: Sequence[models.Experiment],
    options: ComparisonOptions | None = None,
    groups: Sequence[str] = METRIC_GROUPS,
) -> Overview:
    """Compare the methods by each metric: one row per metric in the catalog's order.

    Metrics that no succeeded run has measured are left out, as are metrics of the teacher itself.

    Args:
        session: Session for reading.
        experiments: Experiments that differ only in their seeds; they are evaluated as one.
        options: Baseline and epoch.
        groups: Groups of metrics; a group is the part of a metric's name before the slash.
    """
    options = options or ComparisonOptions()
    sample = sample_of(session, experiments, settings=options.settings)
    baseline = baseline_of(sample, options.baseline)
    metrics = _measured(session, sample, groups)
    selected = metric_selection.select_for_all(session, sample, metrics, options.which)
    titles = metric_selection.title_of(session, sample, metrics, count_all=True)
    rows: list[OverviewRow] = []
    tests: dict[tuple[str, str], verdicts.Test] = {}
    for metric in metrics:
        no_value = metric_selection.SelectedValue()
        values = {student.run_id: selected[metric].get(student.run_id, no_value) for student in sample.students}
        if any(item.value is not None for item in values.values()):
            methods = methods_of(sample, values, {}, convergence_target(options))
            by_looks = sample.grows and metric == sample.headline
            row = _row(methods, baseline, sample, ComparisonSpec(metric, options.which, by_looks=by_looks), tests)
            rows.append(row.model_copy(update={"title": titles[metric]}))
    notes = caveats(sample, ComparisonSpec(options.metric or sample.headline, options.which))
    count = sum(test.p is not None for test in tests.values())
    if count:
        notes.append(
            f'"Better" and "worse" hold over all {count} comparisons of this table: p < 0.05 after Holm. Intervals are '
            "95 % t intervals of each comparison alone."
        )
        notes += _no_verdict_possible(list(tests.values()))
    return Overview(
        experiment=sample.experiments[0].name,
        experiments=[item.name for item in sample.experiments],
        epoch=options.which,
        baseline=baseline,
        condition=f"{teacher_summary(sample)}; {EPOCH_CHOICES[options.which]}",
        tests=count,
        rows=_with_verdicts(rows, tests),
        notes=notes,
    )


def _row(
    methods: Mapping[str, Method],
    baseline: str,
    sample: Sample,
    spec: ComparisonSpec,
    tests: dict[tuple[str, str], verdicts.Test],
) -> OverviewRow:
    """Return a metric's row without verdicts, and add the tests that decide them to ``tests``."""
    metric = METRICS[spec.metric]
    cells = []
    for label, method in methods.items():
        summary = summarize_method(method, sample)
        cell = OverviewCell(label=label, n=summary.n, mean=summary.mean, sd=summary.sd)
        if label != baseline:
            pair = paired(method, methods[baseline], sample, spec)
            tests[metric.name, label] = test_of(pair, spec.better)
            changes = {
                "pairs": pair.n,
                "mean_difference": pair.mean_difference,
                "interval": pair.interval,
                "sign_flip_p": pair.sign_flip_p,
            }
            cell = cell.model_copy(update=changes)
        cells.append(cell)
    return OverviewRow(metric=metric.name, title=metric.title, unit=metric.unit, better=metric.better, cells=cells)


def _with_verdicts(rows: Sequence[OverviewRow], tests: Mapping[tuple[str, str], verdicts.Test]) -> list[OverviewRow]:
    """Return the rows with the verdicts of all tested cells, corrected over all rows."""
    decisions = dict(zip(tests, verdicts.decide(list(tests.values())), strict=True))
    decided = []
    for row in rows:
        cells = []
        for cell in row.cells:
            decision = decisions.get((row.metric, cell.label))
            changes = {"sign_flip_p_holm": decision.p_holm, "verdict": decision.verdict} if decision else {}
            cells.append(cell.model_copy(update=changes))
        decided.append(row.model_copy(update={"cells": cells}))
    return decided


def _no_verdict_possible(tests: Sequence[verdicts.Test]) -> list[str]:
    """Return a note if the pairs are too few, or the comparisons too many, for any cell to have a verdict."""
    smallest_p_values = [
        decision.smallest_p_holm for decision in verdicts.decide(tests) if decision.smallest_p_holm is not None
    ]
    if not smallest_p_values or min(smallest_p_values) < SIGNIFICANCE:
        return []
    max_pairs = max(test.n for test in tests)
    return [
        f"No cell can have a verdict yet: over {len(smallest_p_values)} comparisons {max_pairs} pairs cannot show p < "
        f"{p_text(min(smallest_p_values))}. A comparison of one metric (dkd compare --metric) makes fewer tests."
    ]


def _measured(session: Session, sample: Sample, groups: Sequence[str]) -> list[str]:
    """Return the metrics of these groups that a run of the sample has, in the catalog's order."""
    table, name, link = models.MetricLatest, models.MetricName, models.ExperimentRun
    linked = select(link.run_id).where(link.experiment_id.in_([item.id for item in sample.experiments]))
    query = select(name.name).where(name.id.in_(select(table.name_id).where(table.run_id.in_(linked)).distinct()))
    measured = set(session.scalars(query)) - count_metrics()
    return [
        metric
        for metric in METRICS
        if metric in measured and metric.partition("/")[0] in groups and not metric.endswith(_TEACHER_SUFFIXES)
    ]
