"""The fake backend's comparison of an experiment's methods."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import cast

from core.catalog import METRICS
from core.catalog.datasets import task_of
from core.protocol.comparisons import EpochChoice, RunValue, TeacherUsed
from core.protocol.costs import CostValue, MethodCost
from core.protocol.public import Comparison, Convergence, Experiment, Interval, MethodResult, PairedDifference

_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}
"""Student's t, 97.5 %, by degrees of freedom."""


def compare(experiment: Experiment, query: Mapping[str, str] | None = None) -> Comparison:
    """Return means over seeds and paired differences of an experiment, as the real backend does.

    Args:
        experiment: The experiment.
        query: The request's query.
    """
    query = query or {}
    top = {run.id: run.latest[run.headline].value for run in experiment.runs if run.state == "succeeded"}
    teachers = [run for run in experiment.runs if run.role == "teacher"]
    teacher = next((top.get(run.id) for run in teachers), None)
    groups, values_of = [], {}
    for label in experiment.methods:
        runs = [run for run in experiment.runs if run.label == label]
        values = {run.seed: top[run.id] for run in runs if run.id in top}
        values_of[label] = values
        several = len(values) > 1
        reached = None
        if teacher is not None and values:
            epochs = len(values)
            reached = Convergence(target=0.95 * teacher, reached=epochs, of=epochs, median_epochs=12, max_epochs=30)
        groups.append(
            MethodResult(
                label=label,
                method=runs[0].method,
                n=len(values),
                mean=statistics.fmean(values.values()) if values else None,
                sd=statistics.stdev(values.values()) if several else None,
                interval=_interval(list(values.values())) if several else None,
                values=values,
                missing=[run.seed for run in runs if run.id not in top],
                runs=[
                    RunValue(
                        run_id=run.id,
                        experiment=experiment.name,
                        seed=run.seed,
                        state=run.state,
                        value=values.get(run.seed),
                    )
                    for run in runs
                ],
                convergence=reached,
            )
        )
    baseline = query.get("baseline", experiment.methods[0])
    pairs = [_paired(label, baseline, values_of) for label in experiment.methods if label != baseline]
    if "difference" in query:
        more = f" To see a difference of {float(query['difference']):.2f} points would take 12 seeds."
        pairs = [pair.model_copy(update={"sentence": pair.sentence + more}) for pair in pairs]
    share = float(query.get("target_share", 0.95))
    target = float(query["target"]) if "target" in query else None
    task = task_of(experiment.dataset)
    return Comparison(
        experiment_id=experiment.id,
        experiment=experiment.name,
        metric=task.headline,
        title=METRICS[task.headline].title,
        unit="%",
        test_size=899,
        resolution=None if task.rows_are_regions else 100 / 899,
        teacher_top1=teacher,
        teachers=[
            TeacherUsed(run_id=run.id, fingerprint=run.id, seed=run.seed, state=run.state, top1=top.get(run.id))
            for run in teachers
        ],
        epoch=cast(EpochChoice, query.get("which", "last")),
        target_share=share,
        target=target or (share * teacher if teacher else None),
        absolute_target=target is not None,
        baseline=baseline,
        groups=groups,
        paired=pairs,
        complete=experiment.state != "active",
        condition="one teacher (seed 0)",
        costs=[_cost(group.label, group.n) for group in groups if group.n],
    )


def _cost(label: str, runs: int) -> MethodCost:
    """Return costs on a CPU: the first run of a seed computes the teacher's outputs."""
    seconds, part = CostValue(mean=130.0, n=runs), CostValue(mean=30.0, n=runs)
    return MethodCost(
        label=label,
        uses_teacher=True,
        runs=runs,
        seconds=seconds,
        student_seconds=CostValue(mean=100.0, n=runs),
        teacher_seconds=part,
    )


def _interval(values: list[float]) -> Interval:
    half = _T.get(len(values) - 1, 2.0) * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return Interval(low=mean - half, high=mean + half)


def _paired(label: str, baseline: str, values: Mapping[str, dict[int, float]]) -> PairedDifference:
    seeds = sorted(set(values[label]) & set(values[baseline]))
    differences = [values[label][seed] - values[baseline][seed] for seed in seeds]
    n = len(seeds)
    if n < 2:
        return PairedDifference(
            label=label, baseline=baseline, n=n, seeds=seeds, sentence=f"{label}: too few pairs yet."
        )
    mean, sd = statistics.fmean(differences), statistics.stdev(differences)
    return PairedDifference(
        label=label,
        baseline=baseline,
        n=n,
        seeds=seeds,
        mean_difference=mean,
        sd=sd,
        interval=_interval(differences),
        sign_flip_p=0.25,
        smallest_p=2.0 ** (1 - n),
        sentence=f"{label} against {baseline}: {n} pairs cannot tell; p is at least {2.0 ** (1 - n):.2g}.",
    )
