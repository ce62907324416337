"""Methods summarized over their seeds, and compared with the baseline pair by pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.comparisons import convergence, power, setting_differences, statistics, timing, verdicts
from backend.comparisons.convergence import ConvergenceTarget
from backend.comparisons.metric_selection import SelectedValue
from backend.comparisons.run_data import Curves, Key, Sample, StudentRun
from common.formatting import signed, spread_text
from core.catalog import METRICS
from core.catalog.metric import MACHINE_PREFIX
from core.protocol.comparisons import (
    Better,
    EpochChoice,
    Interval,
    MethodResult,
    MissingPair,
    PairedDifference,
    ReportedVerdict,
    RunConvergence,
    RunValue,
    TeacherDifference,
    Timing,
)
from core.protocol.sequential import Sequential, SequentialComparison

_VERDICTS: Mapping[str, ReportedVerdict] = {"better": "better", "worse": "worse", "higher": "higher", "lower": "lower"}
"""Decisions by looks that name a direction."""


@dataclass(frozen=True)
class ComparisonSpec:
    """The metric of a comparison and the epoch of its values.

    Attributes:
        metric: Name of the metric.
        which: Epoch of the values.
        difference: Difference that the comparison should be able to show, in the metric's unit; percentage points if
            the metric is a percentage.
        by_looks: Whether seeds were added by looks at this metric. A test for a number of seeds that was fixed before
            does not apply to it; ``backend.comparisons.sequential`` decides.
    """

    metric: str
    which: EpochChoice = "last"
    difference: float | None = None
    by_looks: bool = False

    @property
    def is_oracle(self) -> bool:
        """Return whether the test images chose the epoch of the values, which are then only shown."""
        return self.which == "oracle" or self.metric.startswith("oracle/")

    @property
    def is_of_machine(self) -> bool:
        """Return whether the values describe the machines of the runs and not the methods."""
        return self.metric.startswith(MACHINE_PREFIX)

    @property
    def tested(self) -> bool:
        """Return whether the values are tested."""
        return not self.is_oracle and not self.by_looks and not self.is_of_machine

    @property
    def unit(self) -> str:
        metric = METRICS.get(self.metric)
        return metric.unit if metric else ""

    @property
    def better(self) -> Better | None:
        metric = METRICS.get(self.metric)
        return metric.better if metric else None

    @property
    def difference_unit(self) -> str:
        """Return the unit of a difference: that of two percentages is percentage points."""
        return "percentage points" if self.unit == "%" else self.unit


@dataclass(frozen=True)
class Method:
    """One method's runs by pair, with their values and their convergence.

    Attributes:
        selected: Selected values by run id.
        reached: Convergence by pair.
        timing: Part of the times that may be compared between methods.
    """

    label: str
    name: str
    runs: Mapping[Key, StudentRun]
    selected: Mapping[str, SelectedValue]
    reached: Mapping[Key, RunConvergence]
    timing: Timing = "whole"

    @property
    def values(self) -> dict[Key, float]:
        """Return the values that exist, by pair."""
        values = {key: self.selected[run.run_id].value for key, run in self.runs.items()}
        return {key: value for key, value in values.items() if value is not None}


def methods_of(
    sample: Sample, selected: Mapping[str, SelectedValue], series: Curves, target: ConvergenceTarget
) -> dict[str, Method]:
    """Return every method of the sample by its label."""
    run_ids = {run_id for run_id, item in selected.items() if item.value is not None}
    runs_by_label = sample.by_label(dict.fromkeys(run_ids))
    reached = {
        label: convergence.convergence_by_pair(runs_by_label[label].values(), series, sample.headline, target)
        for label in sample.labels
    }
    basis = timing.basis_of(
        (run, series[run.run_id], reached[label].get(key))
        for label in reached
        for key, run in runs_by_label[label].items()
        if run.run_id in series and not run.set_aside
    )
    return {
        label: Method(
            label,
            name,
            runs_by_label[label],
            selected,
            {key: timing.with_comparable_times(run, basis) for key, run in reached[label].items()},
            basis,
        )
        for label, name in sample.labels.items()
    }


def summarize_method(method: Method, sample: Sample, target: ConvergenceTarget | None = None) -> MethodResult:
    """Return one method's mean, spread and interval, the values of its runs and, for a target, its convergence.

    A key is a teacher and a seed. Values by seed are ambiguous, and left out, if the teachers vary.
    """
    values = method.values
    summary = statistics.summarize(statistics.by_block(values))
    keys = [key for key in sample.keys if key in values]
    runs = [method.runs[key] for key in sample.keys if key in method.runs]
    return MethodResult(
        label=method.label,
        method=method.name,
        n=len(values),
        units=summary.n,
        mean=summary.mean,
        sd=summary.sd,
        se=summary.se,
        interval=summary.interval,
        values={} if sample.teachers_vary else {key[1]: values[key] for key in keys},
        # A method that is decided gets no run for later seeds.
        missing=sorted(
            {key[1] for key in sample.keys if key not in values and (key in method.runs or not sample.grows)}
        ),
        runs=[_run_value(run, method.selected[run.run_id]) for run in runs],
        convergence=convergence.summarize(runs, method.reached, target) if target else None,
    )


def paired(method: Method, base: Method, sample: Sample, spec: ComparisonSpec) -> PairedDifference:
    """Compare a method with the baseline pair by pair.

    Verdict and sentence are missing: they need all comparisons of the report (see ``decide_all``).
    """
    method_values, baseline_values = method.values, base.values
    shared = [key for key in sample.keys if key in method_values and key in baseline_values]
    by_pair = {key: method_values[key] - baseline_values[key] for key in shared}
    differences = statistics.by_block(by_pair)
    summary = statistics.summarize(differences)
    teachers_vary = sample.teachers_vary
    differing = setting_differences.differing_settings((method.runs[key], base.runs[key]) for key in shared)
    tested = spec.tested
    needed = (
        power.seeds_needed(spec.difference, summary.sd, summary.n) if tested and spec.difference is not None else None
    )
    return PairedDifference(
        label=method.label,
        baseline=base.label,
        n=len(shared),
        seeds=[seed for _, seed in shared],
        unit="teacher" if teachers_vary else "seed",
        units=summary.n,
        mean_difference=summary.mean,
        sd=summary.sd,
        interval=summary.interval if tested else None,
        sign_flip_p=statistics.sign_flip_p(differences) if tested else None,
        smallest_p=statistics.smallest_p(summary.n) if tested else None,
        correlation=statistics.correlation(
            statistics.by_block({key: method_values[key] for key in shared}),
            statistics.by_block({key: baseline_values[key] for key in shared}),
        ),
        # Welch's interval needs no pairs, so all runs count, not only the paired ones.
        welch_interval=statistics.welch_interval(
            statistics.by_block(method_values), statistics.by_block(baseline_values)
        )
        if tested
        else None,
        teachers=_by_teacher(by_pair, sample) if teachers_vary else [],
        missing=[
            item
            for key in sample.keys
            for item in missing_pair(key, (method, base), sample)
            if item.run_id or not sample.grows
        ],
        unlike=differing,
        needed=needed,
        convergence=convergence.compare(method.reached, base.reached, timed=method.timing != "unlike"),
        sentence="",
    )


def decide_all(
    pairs: Sequence[PairedDifference], spec: ComparisonSpec, by_looks: Sequential | None = None
) -> list[PairedDifference]:
    """Return all comparisons of a report, each with its sentence and its verdict, corrected over the report.

    Args:
        pairs: The comparisons.
        spec: The metric.
        by_looks: The decisions by looks after each seed, if these are what decides; then also the intervals are theirs.
    """
    looks = {item.label: item for item in by_looks.comparisons} if by_looks else {}
    tests = [test_of(pair, spec.better) for pair in pairs]
    decided = []
    for pair, test, decision in zip(pairs, tests, verdicts.decide(tests), strict=True):
        looked = looks.get(pair.label)
        sentences = (
            looked.sentence if looked else _sentence(pair, test, decision, spec),
            *setting_differences.sentences(pair.unlike, pair.n),
            *_seeds_sentence(pair, spec),
        )
        changes: dict[str, Any] = {
            "sign_flip_p_holm": decision.p_holm,
            "verdict": decision.verdict,
            "sentence": " ".join(sentences),
        }
        if looked:
            changes |= {"verdict": _VERDICTS.get(looked.verdict, "unclear"), "interval": _interval(looked)}
        decided.append(pair.model_copy(update=changes))
    return decided


def _interval(looked: SequentialComparison) -> Interval | None:
    """Return the interval of the last look that had one."""
    bounds = [(look.low, look.high) for look in looked.looks]
    return next(
        (Interval(low=low, high=high) for low, high in reversed(bounds) if low is not None and high is not None), None
    )


def test_of(pair: PairedDifference, better: Better | None) -> verdicts.Test:
    """Return the test that decides on the verdict of a comparison."""
    return verdicts.Test(pair.units, pair.mean_difference, pair.sign_flip_p, pair.smallest_p, pair.interval, better)


def missing_pair(key: Key, sides: Sequence[Method], sample: Sample) -> list[MissingPair]:
    """Return which of these methods have no value for a pair, with the reason."""
    seeds = {teacher.fingerprint: teacher.seed for teacher in sample.teachers}
    missing = []
    for side in sides:
        run = side.runs.get(key)
        value = side.selected.get(run.run_id) if run else None
        if value is None or value.value is None:
            missing.append(
                MissingPair(
                    seed=key[1],
                    teacher_seed=seeds.get(key[0]),
                    label=side.label,
                    run_id=run.run_id if run else "",
                    state=run.state if run else "not planned",
                    reason=value.reason if value else "",
                )
            )
    return missing


def _sentence(pair: PairedDifference, test: verdicts.Test, decision: verdicts.Decision, spec: ComparisonSpec) -> str:
    if spec.tested:
        return verdicts.sentence(
            test, decision, label=pair.label, baseline=pair.baseline, unit=spec.difference_unit, noun=_noun(pair)
        )
    if pair.mean_difference is None:
        return "No seed has a value for both methods yet, so there is nothing to compare."
    mean = signed(pair.mean_difference, spec.difference_unit)
    reason = (
        "the test images chose these epochs, so it is not tested"
        if spec.is_oracle
        else "it describes the machines of the runs, so it is not tested"
        if spec.is_of_machine
        else "seeds were added by looks at its last epoch after each seed, which decide only against the first method"
    )
    return f"The mean difference is {mean}; {reason}."


def _noun(pair: PairedDifference) -> str:
    return "teacher" if pair.unit == "teacher" else "pair"


def _seeds_sentence(pair: PairedDifference, spec: ComparisonSpec) -> list[str]:
    """Return a sentence with the range of seeds that would show the requested difference."""
    if spec.difference is None or not spec.tested or pair.units < 2:
        return []
    noun = "teachers" if pair.unit == "teacher" else "seeds"
    if pair.units < power.MIN_PAIRS:
        return [
            f"The spread of {pair.units} {_noun(pair)}s is too uncertain to estimate a number of {noun}: at least "
            f"{power.MIN_PAIRS} are needed."
        ]
    needed = pair.needed
    if needed is None:
        return []
    shown = spread_text(needed.difference, spec.difference_unit)
    high = f"{needed.high:,}" if needed.high is not None else "more than 1,000"
    range_ = high if needed.low in (needed.high, power.MAX_PAIRS) else f"between {needed.low:,} and {high}"
    return [
        f"Showing a difference of {shown} in one comparison alone (80 % power, 5 % two-sided) would take {range_} "
        f"{noun} in total: {pair.units} {_noun(pair)}s give the sd of the differences, {spread_text(pair.sd)}, only as "
        f"{spread_text(needed.sd_low)} to {spread_text(needed.sd_high)}."
    ]


def _by_teacher(by_pair: Mapping[Key, float], sample: Sample) -> list[TeacherDifference]:
    differences = []
    for teacher in sample.teachers:
        values = [value for (block, _), value in by_pair.items() if block == teacher.fingerprint]
        if values:
            mean = sum(values) / len(values)
            differences.append(
                TeacherDifference(
                    teacher_seed=teacher.seed, fingerprint=teacher.fingerprint, n=len(values), mean_difference=mean
                )
            )
    return differences


def _run_value(run: StudentRun, value: SelectedValue) -> RunValue:
    return RunValue(
        run_id=run.run_id,
        experiment=run.experiment,
        seed=run.seed,
        teacher_seed=run.teacher_seed,
        state=run.state,
        value=value.value,
        epoch=value.epoch,
        reason=value.reason,
    )
