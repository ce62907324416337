"""Every metric that students end with, compared the same way: accuracy, fidelity, calibration, collapse, robustness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.comparisons import values
from backend.comparisons.build import Options, baseline_of, condition, conditions, sample_of
from backend.comparisons.data import Sample
from backend.comparisons.groups import Method, Question, group, methods_of, paired
from backend.db import models
from core.catalog import METRICS
from core.wire.comparisons import WHICH, Better, Overview, OverviewCell, OverviewRow, Paired

GROUPS = ("test", "oracle", "val", "fidelity", "calibration", "collapse", "robustness")
_TEACHERS = ("_teacher", "_teacher_drop")

Verdict = Literal["better", "worse", "higher", "lower", "unclear"]


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
    picked = values.pick_all(session, sample, metrics, options.which)
    rows = []
    for metric in metrics:
        one = {student.run_id: picked[metric].get(student.run_id, values.Picked()) for student in sample.students}
        if any(item.value is not None for item in one.values()):
            methods = methods_of(sample, one, {}, options.goal)
            rows.append(_row(methods, baseline, sample, Question(metric, options.which)))
    said = conditions(sample, Question(options.metric, options.which))
    tests = sum(cell.sign_flip_p is not None for row in rows for cell in row.cells)
    if tests > 1:
        said.append(
            f"{tests} comparisons were looked at and none is adjusted for the others: of that many without any "
            "difference, one in twenty would seem to have one, had each enough pairs."
        )
    return Overview(
        experiment=sample.experiments[0].name,
        experiments=[item.name for item in sample.experiments],
        epoch=options.which,
        baseline=baseline,
        condition=f"{condition(sample)}; {WHICH[options.which]}",
        rows=rows,
        notes=said,
    )


def _row(methods: Mapping[str, Method], baseline: str, sample: Sample, question: Question) -> OverviewRow:
    cells = []
    for label, method in methods.items():
        summary = group(method, sample)
        cell = OverviewCell(label=label, n=summary.n, mean=summary.mean, sd=summary.sd)
        if label != baseline:
            pair = paired(method, methods[baseline], sample, question)
            cell = cell.model_copy(
                update={
                    "pairs": pair.n,
                    "mean_difference": pair.mean_difference,
                    "interval": pair.interval,
                    "sign_flip_p": pair.sign_flip_p,
                    "verdict": verdict(pair, question.better),
                }
            )
        cells.append(cell)
    known = METRICS[question.metric]
    return OverviewRow(metric=known.name, title=known.title, unit=known.unit, better=known.better, cells=cells)


def verdict(pair: Paired, better: Better | None) -> Verdict | None:
    """What interval and p say together; None where nothing was tested."""
    if pair.mean_difference is None or pair.sign_flip_p is None:
        return None
    interval = pair.interval
    if interval is None or interval.low <= 0 <= interval.high or pair.sign_flip_p >= 0.05:
        return "unclear"
    higher = pair.mean_difference > 0
    if better is None:
        return "higher" if higher else "lower"
    return "better" if higher == (better == "higher") else "worse"


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
        if metric in there and metric.partition("/")[0] in wanted and not metric.endswith(_TEACHERS)
    ]
