"""The methods of one experiment side by side, from what its runs have measured."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row, Select, and_, select
from sqlalchemy.orm import Session

from backend import statistics
from backend.db import models
from backend.errors import invalid
from backend.metrics_store import decode
from core.catalog import METRICS, UnknownNameError
from core.wire.public import TERMINAL, Comparison, Convergence, Group, Paired, ProblemField

ACCURACY = "test/top1"
# What differs between machines anyhow; the rest of the environment was chosen, and a pair should share it.
_OF_THE_MACHINE = frozenset({"python", "platform", "processor"})


@dataclass
class _Method:
    """One method's runs. Everything is by seed."""

    label: str
    name: str
    values: dict[int, float] = field(default_factory=dict)
    curves: dict[int, tuple[list[float], list[float]]] = field(default_factory=dict)
    environments: dict[int, Mapping[str, Any]] = field(default_factory=dict)


def build(
    session: Session,
    experiment: models.Experiment,
    *,
    baseline: str | None = None,
    metric: str = ACCURACY,
    target_share: float = 0.95,
) -> Comparison:
    """Compare the experiment's methods, pair by pair, after their last epoch.

    Args:
        baseline: a method's label; None for the spec's first method.
        metric: whose last value is compared.
        target_share: of the teacher's last test accuracy, to which convergence is measured.

    Raises:
        ApiError: 422, for a baseline or a metric that the experiment does not have.
    """
    spec = experiment.spec
    methods = {choice["label"]: _Method(choice["label"], choice["name"]) for choice in spec["methods"]}
    if baseline is None:
        baseline = next(iter(methods))
    if baseline not in methods:
        text = f"there is no method {baseline!r} in {experiment.name}; it has {', '.join(methods)}"
        raise invalid(text, ProblemField(path="baseline", message=text))
    runs = session.execute(_runs(experiment.id, metric)).all()
    if metric not in METRICS and all(run.kind is None for run in runs):
        text = str(UnknownNameError("metric", metric, list(METRICS)))
        raise invalid(text, ProblemField(path="metric", message=text))
    teacher_top1 = _teacher_top1(session, experiment.id)
    target = None if teacher_top1 is None else target_share * teacher_top1
    _fill(methods, runs, _curves(session, runs) if target is not None else {})
    seeds: list[int] = spec["seeds"]
    test_size = max((run.test_size for run in runs), default=0)
    known = METRICS.get(metric)
    return Comparison(
        experiment_id=experiment.id,
        experiment=experiment.name,
        metric=metric,
        unit=known.unit if known else "",
        test_size=test_size,
        resolution=100 / test_size if test_size else None,
        teacher_top1=teacher_top1,
        target_share=target_share,
        target=target,
        baseline=baseline,
        groups=[_group(method, seeds, target, spec["training"]["epochs"]) for method in methods.values()],
        paired=_paired(methods, baseline, seeds, metric),
        complete=bool(runs) and all(run.state in TERMINAL for run in runs),
        condition=_condition(spec, runs),
    )


def _runs(experiment_id: str, metric: str) -> Select[Any]:
    """Every run of the experiment in its order, with the newest value of the metric where it has one."""
    run, latest, name, used = models.Run, models.MetricLatest, models.MetricName, models.ExperimentRun
    name_id = select(name.id).where(name.name == metric).scalar_subquery()
    return (
        select(
            used.label,
            run.id,
            run.role,
            run.state,
            run.seed,
            run.test_size,
            run.environment,
            latest.value,
            latest.kind,
        )
        .join(run, run.id == used.run_id)
        .outerjoin(latest, and_(latest.run_id == run.id, latest.name_id == name_id))
        .where(used.experiment_id == experiment_id)
        .order_by(used.position)
    )


def _teacher_top1(session: Session, experiment_id: str) -> float | None:
    """The teacher's test accuracy after its last epoch, %; None until it has succeeded."""
    run, latest, name, used = models.Run, models.MetricLatest, models.MetricName, models.ExperimentRun
    found = session.execute(
        select(latest.value, latest.kind)
        .join(name, and_(name.id == latest.name_id, name.name == ACCURACY))
        .join(run, and_(run.id == latest.run_id, run.role == "teacher", run.state == "succeeded"))
        .join(used, and_(used.run_id == run.id, used.experiment_id == experiment_id))
    ).first()
    return None if found is None else _finite(found.value, found.kind)


def _curves(session: Session, runs: Sequence[Row[Any]]) -> dict[str, tuple[list[float], list[float]]]:
    """Epochs and test accuracies, by run, of the students that succeeded or failed."""
    point, name = models.MetricPoint, models.MetricName
    ended = [run.id for run in runs if run.role == "student" and run.state in ("succeeded", "failed")]
    name_id = select(name.id).where(name.name == ACCURACY).scalar_subquery()
    curves: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    if ended:
        rows = session.execute(
            select(point.run_id, point.epoch, point.value, point.kind)
            .where(point.run_id.in_(ended), point.name_id == name_id)
            .order_by(point.run_id, point.step)
        )
        for run_id, epoch, value, kind in rows:
            curves[run_id][0].append(epoch)
            curves[run_id][1].append(decode(value, kind))
    return curves


def _fill(
    methods: dict[str, _Method], runs: Sequence[Row[Any]], curves: dict[str, tuple[list[float], list[float]]]
) -> None:
    for run in runs:
        method = methods.get(run.label)
        if method is None or run.role == "teacher":
            continue
        if run.id in curves:
            method.curves[run.seed] = curves[run.id]
        value = _finite(run.value, run.kind) if run.state == "succeeded" else None
        if value is not None:
            method.values[run.seed] = value
            method.environments[run.seed] = run.environment


def _finite(value: float | None, kind: int | None) -> float | None:
    """A value that can be averaged, or None: a mean with NaN or infinity in it says nothing."""
    return value if kind is not None and value is not None and math.isfinite(value) else None


def _group(method: _Method, seeds: list[int], target: float | None, epochs: int) -> Group:
    values = {seed: method.values[seed] for seed in seeds if seed in method.values}
    summary = statistics.summarize(list(values.values()))
    return Group(
        label=method.label,
        method=method.name,
        n=summary.n,
        mean=summary.mean,
        sd=summary.sd,
        se=summary.se,
        interval=summary.interval,
        values=values,
        missing=[seed for seed in seeds if seed not in values],
        convergence=None if target is None else _convergence(method, target, epochs),
    )


def _convergence(method: _Method, target: float, epochs: int) -> Convergence:
    reached = [statistics.epochs_to_target(*curve, target) for curve in method.curves.values()]
    return Convergence(
        target=target,
        reached=sum(epoch is not None for epoch in reached),
        of=len(reached),
        median_epochs=statistics.median_epochs(reached),
        max_epochs=epochs,
    )


def _paired(methods: dict[str, _Method], baseline: str, seeds: list[int], metric: str) -> list[Paired]:
    known = METRICS.get(metric)
    unit = known.unit if known else ""
    better: statistics.Better = known.better if known else None
    base = methods[baseline]
    pairs: list[Paired] = []
    for method in methods.values():
        if method is base:
            continue
        shared = [seed for seed in seeds if seed in method.values and seed in base.values]
        left, right = [method.values[seed] for seed in shared], [base.values[seed] for seed in shared]
        result = statistics.paired(left, right)
        sentence = statistics.sentence(
            [value - other for value, other in zip(left, right, strict=True)],
            label=method.label,
            baseline=baseline,
            better=better,
            # A difference of two percentages is not a percentage of either.
            unit="percentage points" if unit == "%" else unit,
        )
        pairs.append(
            Paired(
                label=method.label,
                baseline=baseline,
                n=len(shared),
                seeds=shared,
                mean_difference=result.differences.mean,
                sd=result.differences.sd,
                interval=result.differences.interval,
                sign_flip_p=result.sign_flip_p,
                smallest_p=result.smallest_p,
                correlation=result.correlation,
                # Of all runs, not only the paired ones: it does not need the pairs.
                welch_interval=statistics.welch_interval(list(method.values.values()), list(base.values.values())),
                sentence=" ".join(filter(None, (sentence, *_caveats(method, base, shared, len(methods) - 1)))),
            )
        )
    return pairs


def _caveats(method: _Method, base: _Method, shared: list[int], comparisons: int) -> list[str]:
    """What a reader must know besides: pairs trained under different settings, and several looks at one baseline."""
    found = []
    keys: set[str] = set()
    unlike = 0
    for seed in shared:
        one, other = method.environments[seed], base.environments[seed]
        differing = {key for key in one.keys() & other.keys() if one[key] != other[key]} - _OF_THE_MACHINE
        keys |= differing
        unlike += bool(differing)
    if unlike:
        found.append(
            f"{unlike} of {len(shared)} pairs were trained with different settings: {', '.join(sorted(keys))}."
        )
    least = statistics.smallest_p(len(shared))
    if comparisons > 1 and least is not None and least < 0.05:
        found.append(f"The p is not adjusted for the {comparisons} comparisons with the baseline.")
    return found


def _condition(spec: Mapping[str, Any], runs: Sequence[Row[Any]]) -> str:
    if any(run.role == "teacher" for run in runs):
        return f"one teacher (seed {spec['teacher']['seed']})"
    return "training without a teacher"
