"""The value that a run contributes to a comparison, or the reason why it contributes none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from backend.comparisons.run_data import LatestPoint, MetricCurve, Sample, StudentRun, curves, latest
from common.formatting import title_with_count
from core.catalog import METRICS
from core.protocol.comparisons import EpochChoice


@dataclass(frozen=True)
class SelectedValue:
    """A run's value with its epoch, or None with the reason why there is no value."""

    value: float | None = None
    epoch: float | None = None
    reason: str = ""


def select_values(session: Session, sample: Sample, metric: str, which: EpochChoice) -> dict[str, SelectedValue]:
    """Return the value of every student, by run.

    Only runs that succeeded contribute a value, because an accuracy in the middle of a training is not its result. Runs
    that are set aside because of their data contribute none.
    """
    run_ids = [student.run_id for student in sample.students if _is_compared(student)]
    if which == "last":
        newest = latest(session, run_ids, [metric])
        values = {run_id: _last(newest.get(run_id, {}).get(metric)) for run_id in run_ids}
    else:
        selection_metric = _selection_metric(sample, which)
        series = curves(session, run_ids, list({metric, selection_metric}))
        values = {run_id: _at_best(series.get(run_id, {}), metric, selection_metric) for run_id in run_ids}
    return {
        student.run_id: values.get(student.run_id) or SelectedValue(reason=reason_without_value(student))
        for student in sample.students
    }


def select_for_all(
    session: Session, sample: Sample, metrics: Sequence[str], which: EpochChoice
) -> dict[str, dict[str, SelectedValue]]:
    """Return the values of several metrics, by metric and run, in the same number of queries as ``select_values``."""
    run_ids = [student.run_id for student in sample.students if _is_compared(student)]
    if which == "last":
        newest = latest(session, run_ids, metrics)
        return {metric: {run_id: _last(newest.get(run_id, {}).get(metric)) for run_id in run_ids} for metric in metrics}
    selection_metric = _selection_metric(sample, which)
    series = curves(session, run_ids, sorted({*metrics, selection_metric}))
    return {
        metric: {run_id: _at_best(series.get(run_id, {}), metric, selection_metric) for run_id in run_ids}
        for metric in metrics
    }


def title_of(session: Session, sample: Sample, metrics: Sequence[str], *, count_all: bool = False) -> dict[str, str]:
    """Return the title of each metric; if the metric is not measured on all images, with the number of its images.

    Args:
        session: Session for reading.
        sample: The runs.
        metrics: The names of the metrics.
        count_all: Whether titles of shares of all test images have their number too.
    """
    count_metrics = {name: METRICS[name].of for name in metrics if name in METRICS and METRICS[name].of}
    run_ids = [student.run_id for student in sample.students if _is_compared(student)]
    newest = latest(session, run_ids, sorted({*count_metrics, *count_metrics.values()})) if count_metrics else {}
    test_sizes = {student.test_size for student in sample.students if _is_compared(student) and student.test_size}
    titles = {}
    for metric in metrics:
        entry = METRICS.get(metric)
        title = entry.title if entry else metric
        runs = [points for points in newest.values() if metric in points]
        if entry and metric in count_metrics and runs:
            counts = [points.get(entry.of) for points in runs]
            title = title_with_count(title, [point.value if point else None for point in counts], sample.task.item)
        elif count_all and entry and entry.of_all and test_sizes:
            title = title_with_count(title, test_sizes, sample.task.item)
        titles[metric] = title
    return titles


def _selection_metric(sample: Sample, which: EpochChoice) -> str:
    """Return the name of the metric whose best value selects the epoch."""
    return sample.task.validation if which == "best_val" else sample.headline


def _is_compared(student: StudentRun) -> bool:
    return student.state == "succeeded" and not student.set_aside


def reason_without_value(student: StudentRun) -> str:
    if student.set_aside:
        return student.set_aside
    if student.state in ("failed", "cancelled"):
        return f"{student.state}: {student.reason}" if student.reason else student.state
    return f"{student.state}, not ended yet" if student.state != "succeeded" else "not measured"


def _last(point: LatestPoint | None) -> SelectedValue:
    if point is None:
        return SelectedValue(reason="not measured")
    if not math.isfinite(point.value):  # a mean over NaN or infinity has no meaning
        return SelectedValue(
            epoch=point.epoch, reason=f"it is {_nonfinite_text(point.value)} after epoch {point.epoch:g}"
        )
    return SelectedValue(point.value, point.epoch)


def _at_best(series: Mapping[str, MetricCurve], metric: str, selection_metric: str) -> SelectedValue:
    selection_curve = series.get(selection_metric)
    index = selection_curve.best() if selection_curve else None
    if selection_curve is None or index is None:
        missing = "no validation split" if selection_metric.startswith("val/") else "no result"
        return SelectedValue(reason=f"{missing}: {selection_metric} was never measured")
    epoch = selection_curve.epoch[index]
    value = series[metric].at_step(selection_curve.step[index]) if metric in series else None
    if value is None:
        return SelectedValue(
            epoch=epoch, reason=f"not measured at epoch {epoch:g}, the run's best epoch by {selection_metric}"
        )
    if not math.isfinite(value):
        return SelectedValue(epoch=epoch, reason=f"it is {_nonfinite_text(value)} at epoch {epoch:g}")
    return SelectedValue(value, epoch)


def _nonfinite_text(value: float) -> str:
    return "NaN" if math.isnan(value) else "infinite"
