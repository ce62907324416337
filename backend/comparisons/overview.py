"""Every metric that students end with, compared the same way: accuracy, fidelity, calibration, collapse, robustness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.comparisons import metric_selection, verdicts
from backend.comparisons.compare import Options, baseline_of, caveats, sample_of, teacher_summary
from backend.comparisons.groups import Method, Question, group, methods_of, paired, test_of
from backend.comparisons.run_data import Sample
from backend.db import models
from common.formatting import SIGNIFICANCE, p_text
from core.catalog import METRICS
from core.catalog.metrics import COUNTS
from core.protocol.comparisons import EPOCH_CHOICES, Overview, OverviewCell, OverviewRow

GROUPS = ("test", "oracle", "val", "fidelity", "calibration", "collapse", "robustness")
_TEACHERS = ("_teacher", "_teacher_drop")


def overview(
    session: Session,
    experiments: Sequence[models.Experiment],
    options: Options | None = None,
    groups: Sequence[str] = GROUPS,
) -> Overview:
    """A row a metric, in the catalog's order; those of no run that succeeded are left out.

    Args:
        groups: the part of a metric's name before the slash. What is measured of the teacher itself is left out.
    """
    options = options or Options()
    sample = sample_of(session, experiments)
    baseline = baseline_of(sample, options.baseline)
    metrics = _measured(session, sample, groups)
    picked = metric_selection.pick_all(session, sample, metrics, options.which)
    titles = metric_selection.title_of(session, sample, metrics)
    rows: list[OverviewRow] = []
    tests: dict[tuple[str, str], verdicts.Test] = {}
    for metric in metrics:
        one = {
            student.run_id: picked[metric].get(student.run_id, metric_selection.Picked()) for student in sample.students
        }
        if any(item.value is not None for item in one.values()):
            methods = methods_of(sample, one, {}, options.goal)
            row = _row(methods, baseline, sample, Question(metric, options.which), tests)
            rows.append(row.model_copy(update={"title": titles[metric]}))
    said = caveats(sample, Question(options.metric, options.which))
    count = sum(test.p is not None for test in tests.values())
    if count:
        said.append(
            f'"Better" and "worse" hold over all {count} comparisons of this table: p < 0.05 after Holm. Intervals are '
            "95 % t intervals of each comparison alone."
        )
        said += _out_of_reach(list(tests.values()))
    return Overview(
        experiment=sample.experiments[0].name,
        experiments=[item.name for item in sample.experiments],
        epoch=options.which,
        baseline=baseline,
        condition=f"{teacher_summary(sample)}; {EPOCH_CHOICES[options.which]}",
        tests=count,
        rows=_decided(rows, tests),
        notes=said,
    )


def _row(
    methods: Mapping[str, Method],
    baseline: str,
    sample: Sample,
    question: Question,
    tests: dict[tuple[str, str], verdicts.Test],
) -> OverviewRow:
    """A metric's row, without verdicts; what they are decided by is added to ``tests``."""
    known = METRICS[question.metric]
    cells = []
    for label, method in methods.items():
        summary = group(method, sample)
        cell = OverviewCell(label=label, n=summary.n, mean=summary.mean, sd=summary.sd)
        if label != baseline:
            pair = paired(method, methods[baseline], sample, question)
            tests[known.name, label] = test_of(pair, question.better)
            changes = {
                "pairs": pair.n,
                "mean_difference": pair.mean_difference,
                "interval": pair.interval,
                "sign_flip_p": pair.sign_flip_p,
            }
            cell = cell.model_copy(update=changes)
        cells.append(cell)
    return OverviewRow(metric=known.name, title=known.title, unit=known.unit, better=known.better, cells=cells)


def _decided(rows: Sequence[OverviewRow], units: Mapping[tuple[str, str], verdicts.Test]) -> list[OverviewRow]:
    """The rows with a verdict in every cell that is tested, over all of them."""
    decisions = dict(zip(units, verdicts.decide(list(units.values())), strict=True))
    found = []
    for row in rows:
        cells = []
        for cell in row.cells:
            decision = decisions.get((row.metric, cell.label))
            changes = {"sign_flip_p_holm": decision.p_holm, "verdict": decision.verdict} if decision else {}
            cells.append(cell.model_copy(update=changes))
        found.append(row.model_copy(update={"cells": cells}))
    return found


def _out_of_reach(tests: Sequence[verdicts.Test]) -> list[str]:
    """That no cell could have a verdict whatever the numbers, where so few pairs are there for so many comparisons."""
    least = [decision.least for decision in verdicts.decide(tests) if decision.least is not None]
    if not least or min(least) < SIGNIFICANCE:
        return []
    most = max(test.n for test in tests)
    return [
        f"No cell can have a verdict yet: over {len(least)} comparisons {most} pairs cannot show p < "
        f"{p_text(min(least))}. A comparison of one metric (dkd compare --metric) tests less at once."
    ]


def _measured(session: Session, sample: Sample, groups: Sequence[str]) -> list[str]:
    """Metrics of these groups that a run of the sample has, in the catalog's order."""
    table, name, used = models.MetricLatest, models.MetricName, models.ExperimentRun
    linked = select(used.run_id).where(used.experiment_id.in_([item.id for item in sample.experiments]))
    query = select(name.name).where(name.id.in_(select(table.name_id).where(table.run_id.in_(linked)).distinct()))
    there = set(session.scalars(query))
    wanted = set(groups)
    return [
        metric
        for metric in METRICS
        if metric in there
        and metric.partition("/")[0] in wanted
        and not metric.endswith(_TEACHERS)
        and metric not in COUNTS
    ]
