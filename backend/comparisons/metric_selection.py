"""The value that a run contributes to a comparison, or the reason why it contributes none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from backend.comparisons.run_data import ACCURACY, VALIDATION, Curve, Latest, Sample, Student, curves, latest
from common.formatting import title_with_count
from core.catalog import METRICS
from core.protocol.comparisons import EpochChoice


@dataclass(frozen=True)
class SelectedValue:
    """A run's value with its epoch; or None with the reason."""

    value: float | None = None
    epoch: float | None = None
    reason: str = ""


def pick(session: Session, sample: Sample, metric: str, which: EpochChoice) -> dict[str, SelectedValue]:
    """Return the value of every student, by run.

    Only runs that succeeded contribute one, because an accuracy in the middle of a training is not its result. Runs of
    other data than the compared ones contribute none.
    """
    done = [student.run_id for student in sample.students if _counts(student)]
    if which == "last":
        newest = latest(session, done, [metric])
        found = {run_id: _last(newest.get(run_id, {}).get(metric)) for run_id in done}
    else:
        chooser = VALIDATION if which == "best_val" else ACCURACY
        series = curves(session, done, list({metric, chooser}))
        found = {run_id: _at_best(series.get(run_id, {}), metric, chooser) for run_id in done}
    return {
        student.run_id: found.get(student.run_id) or SelectedValue(reason=not_done(student))
        for student in sample.students
    }


def pick_all(
    session: Session, sample: Sample, metrics: Sequence[str], which: EpochChoice
) -> dict[str, dict[str, SelectedValue]]:
    """Return the values of several metrics, by metric and run, in the same number of queries as ``pick``."""
    done = [student.run_id for student in sample.students if _counts(student)]
    if which == "last":
        newest = latest(session, done, metrics)
        return {metric: {run_id: _last(newest.get(run_id, {}).get(metric)) for run_id in done} for metric in metrics}
    chooser = VALIDATION if which == "best_val" else ACCURACY
    series = curves(session, done, sorted({*metrics, chooser}))
    return {
        metric: {run_id: _at_best(series.get(run_id, {}), metric, chooser) for run_id in done} for metric in metrics
    }


def title_of(session: Session, sample: Sample, metrics: Sequence[str]) -> dict[str, str]:
    """Return the title of each metric, with the number of its images if it is not measured on all."""
    needed = {name: METRICS[name].of for name in metrics if name in METRICS and METRICS[name].of}
    done = [student.run_id for student in sample.students if _counts(student)]
    newest = latest(session, done, sorted({*needed, *needed.values()})) if needed else {}
    titles = {}
    for metric in metrics:
        known = METRICS.get(metric)
        title = known.title if known else metric
        runs = [points for points in newest.values() if metric in points]
        if known and metric in needed and runs:
            counts = [points.get(known.of) for points in runs]
            title = title_with_count(title, [point.value if point else None for point in counts])
        titles[metric] = title
    return titles


def finite(picked: Mapping[str, SelectedValue]) -> dict[str, float]:
    """Return the values that exist, by run."""
    return {run_id: item.value for run_id, item in picked.items() if item.value is not None}


def _counts(student: Student) -> bool:
    return student.state == "succeeded" and not student.set_aside


def not_done(student: Student) -> str:
    if student.set_aside:
        return student.set_aside
    if student.state in ("failed", "cancelled"):
        return f"{student.state}: {student.reason}" if student.reason else student.state
    return f"{student.state}, not ended yet" if student.state != "succeeded" else "not measured"


def _last(point: Latest | None) -> SelectedValue:
    if point is None:
        return SelectedValue(reason="not measured")
    if not math.isfinite(point.value):  # a mean with NaN or infinity in it says nothing
        return SelectedValue(epoch=point.epoch, reason=f"it is {_odd(point.value)} after epoch {point.epoch:g}")
    return SelectedValue(point.value, point.epoch)


def _at_best(series: Mapping[str, Curve], metric: str, chooser: str) -> SelectedValue:
    chosen = series.get(chooser)
    index = chosen.best() if chosen else None
    if chosen is None or index is None:
        what = "no validation split" if chooser == VALIDATION else "no test accuracy"
        return SelectedValue(reason=f"{what}: {chooser} was never measured")
    epoch = chosen.epoch[index]
    value = series[metric].at_step(chosen.step[index]) if metric in series else None
    if value is None:
        return SelectedValue(epoch=epoch, reason=f"not measured at epoch {epoch:g}, its best by {chooser}")
    if not math.isfinite(value):
        return SelectedValue(epoch=epoch, reason=f"it is {_odd(value)} at epoch {epoch:g}")
    return SelectedValue(value, epoch)


def _odd(value: float) -> str:
    return "NaN" if math.isnan(value) else "infinite"
