"""Predictions of the methods of an experiment over its seeds, by the lab's paired statistics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from backend.artifacts.run_results import RunResults
from backend.comparisons import statistics
from backend.comparisons.comparison import baseline_of, caveats
from backend.comparisons.groups import ComparisonSpec
from backend.comparisons.run_data import Key, StudentRun
from backend.db import models
from backend.errors import ApiError
from backend.predictions import measures
from backend.predictions.correlations import NONE_KEPT as NO_CORRELATIONS
from backend.predictions.networks import TEACHER, Compared, Predictions, of_teacher, own
from backend.predictions.seeds import Seeds
from core.items.correlations import Correlations
from core.items.statistics import check_same_data
from core.items.table import Items, ItemsError
from core.protocol.comparison_queries import MethodPredictionsQuery
from core.protocol.predictions import (
    ClassOverSeeds,
    ComparedPredictions,
    ConfidenceBin,
    ConfusionMatrix,
    CorrelationDifference,
    MethodPredictions,
    SeedsSummary,
    TeacherPredictions,
)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Numbers:
    """Numbers about the predictions of one run.

    Attributes:
        by_class: (C,) accuracies in %; NaN for a class without images.
        bins: Sums by range of the confidence; None if the run kept none.
        correlation: Mean |difference| to the teacher's correlations; None without them.
    """

    by_class: Floats
    bins: Floats | None
    correlation: float | None


def compare(
    session: Session, results: RunResults, experiments: Sequence[models.Experiment], baseline: str | None
) -> ComparedPredictions:
    """Compare the predictions of the methods over the seeds.

    Args:
        session: Session for reading.
        results: The files of runs.
        experiments: Experiments that differ only in their seeds.
        baseline: Label of the method that the others are compared with; None for the first.

    Raises:
        ApiError: 422 if they cannot be compared, 404 if no run kept its predictions.
    """
    seeds = Seeds.read(session, results, experiments)
    base = baseline_of(seeds.sample, baseline)
    size = len(seeds.classes)
    teachers = _teachers(seeds)
    by_class = {key: _accuracies(network, size) for key, network in teachers.items()}
    numbers = {
        label: {key: _numbers(seeds, run, size) for key, run in runs.items()} for label, runs in seeds.runs.items()
    }
    counts = measures.by_class(own(seeds.first), size)[:, 0]
    spec = ComparisonSpec(seeds.sample.headline)
    return ComparedPredictions(
        baseline=base,
        classes=list(seeds.classes),
        images=len(seeds.first),
        images_by_class=counts.tolist(),
        methods=[
            MethodPredictions(
                label=label,
                method=name,
                runs={run.seed: run.run_id for run in seeds.runs[label].values()},
                by_class=_over_seeds(numbers[label], None if label == base else numbers[base], by_class, size),
                calibration=_calibration(numbers[label].values()),
                ece=_summary(_values(numbers[label], _ece)),
                correlation=_summary(_values(numbers[label], lambda run: run.correlation)),
                correlation_to_baseline=None
                if label == base
                else _paired(
                    _values(numbers[label], lambda run: run.correlation),
                    _values(numbers[base], lambda run: run.correlation),
                ),
            )
            for label, name in seeds.sample.labels.items()
        ],
        teacher=_teacher(list(teachers.values()), size),
        notes=[*seeds.notes(), *caveats(seeds.sample, spec), *_interval_note(size, len(seeds.runs) - 1)],
    )


def confusion(
    session: Session,
    results: RunResults,
    experiments: Sequence[models.Experiment],
    query: MethodPredictionsQuery,
) -> ConfusionMatrix:
    """Return a method's confusion beside the teacher's or another method's, summed over the seeds that both have.

    Raises:
        ApiError: 422 if there is no such method, 404 if no run kept its predictions.
    """
    seeds = Seeds.read(session, results, experiments)
    runs = seeds.of(query.label)
    if query.against is None:
        teachers = _teachers(seeds)
        pairs = [(run, teachers.get(key[0])) for key, run in runs.items()]
        if any(teacher for _, teacher in pairs):
            pairs = [(run, teacher) for run, teacher in pairs if teacher]
    else:
        others = seeds.of(query.against)
        pairs = [(run, own(seeds.items(others[key].run_id))) for key, run in runs.items() if key in others]
    if not pairs:
        raise ApiError(404, _no_pair(query))
    reference = (query.against or TEACHER) if pairs[0][1] else ""
    compared = [Compared(own(seeds.items(run.run_id)), other, reference, seeds.classes) for run, other in pairs]
    return measures.confusion_reply(query.label, reference, seeds.classes, compared, limit=10_000)


def correlations(
    session: Session,
    results: RunResults,
    experiments: Sequence[models.Experiment],
    query: MethodPredictionsQuery,
) -> CorrelationDifference:
    """Return the mean over the seeds of a method's map of differences.

    Raises:
        ApiError: 422 if there is no such method, 404 if no run kept its correlations.
    """
    seeds = Seeds.read(session, results, experiments)
    runs = seeds.of(query.label)
    if query.against is None:
        maps = [_difference(seeds, run) for run in runs.values()]
    else:
        others = seeds.of(query.against)
        pairs = [(run, others[key]) for key, run in runs.items() if key in others]
        maps = [_difference(seeds, run, other) for run, other in pairs]
    found = [values for values in maps if values is not None]
    if not found:
        raise ApiError(404, NO_CORRELATIONS if maps else _no_pair(query))
    return measures.correlation_reply(query.label, query.against or TEACHER, seeds.classes, found)


def _no_pair(query: MethodPredictionsQuery) -> str:
    beside = f" and of {query.against}" if query.against else ""
    return f"no run of {query.label}{beside} for one seed kept its predictions"


def _numbers(seeds: Seeds, run: StudentRun, size: int) -> _Numbers:
    network = own(seeds.items(run.run_id))
    difference = _difference(seeds, run)
    return _Numbers(
        _accuracies(network, size),
        measures.confidence_sums([network]),
        None if difference is None else measures.mean_difference(difference),
    )


def _accuracies(network: Predictions, size: int) -> Floats:
    """Return the accuracy on each class in %, (C,); NaN for a class without images."""
    counts = measures.by_class(network, size)
    accuracies: Floats = np.full(size, math.nan)
    np.divide(100.0 * counts[:, 1], counts[:, 0], out=accuracies, where=counts[:, 0] > 0)
    return accuracies


def _teachers(seeds: Seeds) -> dict[str, Predictions]:
    """Return the predictions of each teacher by its fingerprint.

    They are in the file of a student. Students of a method that uses no teacher have none; then the teacher's own run
    is read.
    """
    found: dict[str, Predictions] = {}
    for runs in seeds.runs.values():
        for (teacher, _), run in runs.items():
            if teacher and teacher not in found and (network := of_teacher(seeds.items(run.run_id))):
                found[teacher] = network
    for own_run in seeds.sample.teachers:
        if own_run.fingerprint not in found and not own_run.other_data and own_run.run_id in seeds.attempts:
            items = _same_items(seeds, own_run.run_id)
            # Several teachers have one fingerprint together, and no run of theirs together.
            if items and "+" not in own_run.fingerprint:
                found[own_run.fingerprint] = own(items)
    return found


def _same_items(seeds: Seeds, run_id: str) -> Items | None:
    try:
        items = seeds.items(run_id)
        check_same_data(seeds.first, items)
    except ItemsError:
        return None
    return items


def _difference(seeds: Seeds, run: StudentRun, other: StudentRun | None = None) -> Floats | None:
    """Return the map of a run against another, or its teacher; None if correlations are missing."""
    found = _correlations(seeds, run.run_id)
    if other is not None:
        second = _correlations(seeds, other.run_id)
    elif found is not None and "teacher" in found.networks:
        return measures.correlation_difference(found)
    else:
        second = _correlations(seeds, run.teacher.run_id) if run.teacher and not run.teacher.other_data else None
    if found is None or second is None or found.size != second.size or found.images != second.images:
        return None
    return measures.correlation_difference(found, second)


def _correlations(seeds: Seeds, run_id: str) -> Correlations | None:
    try:
        return seeds.results.correlations(run_id, seeds.attempts[run_id]) if run_id in seeds.attempts else None
    except ItemsError:
        return None


def _over_seeds(
    numbers: Mapping[Key, _Numbers], base: Mapping[Key, _Numbers] | None, teachers: Mapping[str, Floats], size: int
) -> list[ClassOverSeeds]:
    def of_class(at: int) -> ClassOverSeeds:
        values = _finite({key: run.by_class[at] for key, run in numbers.items()})
        to_teacher = {key: value - teachers[key[0]][at] for key, value in values.items() if key[0] in teachers}
        return ClassOverSeeds(
            accuracy=_summary(values),
            to_baseline=None
            if base is None
            else _paired(values, _finite({key: run.by_class[at] for key, run in base.items()})),
            to_teacher=_summary(_finite(to_teacher)) if to_teacher else None,
        )

    return [of_class(at) for at in range(size)]


def _values(numbers: Mapping[Key, _Numbers], value: Callable[[_Numbers], float | None]) -> dict[Key, float]:
    found = {key: value(run) for key, run in numbers.items()}
    return {key: number for key, number in found.items() if number is not None}


def _ece(run: _Numbers) -> float | None:
    return None if run.bins is None else measures.calibration_error(run.bins)


def _finite(values: Mapping[Key, float]) -> dict[Key, float]:
    return {key: float(value) for key, value in values.items() if math.isfinite(value)}


def _paired(values: Mapping[Key, float], base: Mapping[Key, float]) -> SeedsSummary:
    return _summary({key: value - base[key] for key, value in values.items() if key in base})


def _summary(values: Mapping[Key, float]) -> SeedsSummary:
    summary = statistics.summarize(statistics.by_block(values))
    return SeedsSummary(n=summary.n, mean=summary.mean, interval=summary.interval)


def _calibration(runs: Iterable[_Numbers]) -> list[ConfidenceBin]:
    bins = [run.bins for run in runs if run.bins is not None]
    return measures.confidence_bins(np.sum(bins, axis=0)) if bins else []


def _teacher(teachers: Sequence[Predictions], size: int) -> TeacherPredictions | None:
    if not teachers:
        return None
    means = np.mean([_accuracies(teacher, size) for teacher in teachers], axis=0)
    bins = measures.confidence_sums(teachers)
    return TeacherPredictions(
        by_class=[float(value) if math.isfinite(value) else None for value in means],
        calibration=[] if bins is None else measures.confidence_bins(bins),
    )


def _interval_note(classes: int, methods: int) -> list[str]:
    """Return what many intervals mean."""
    count = classes * methods
    if count < 2:
        return []
    expected = 0.05 * count
    return [
        f"Every interval is of one class alone, at 95 %: of {count:,} differences to the baseline, about "
        f"{expected:,.{0 if expected >= 10 else 1}f} would exclude zero by chance. They say where to look, and prove "
        "nothing."
    ]
