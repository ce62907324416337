"""The runs of an experiment that is trained without a service, with as many seeds as its comparisons need."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from common.formatting import difference_unit
from common.sequential import wording
from common.sequential.decision import Decision, decide, is_stuck
from core.catalog import METRICS
from core.catalog.datasets import headline_of
from core.specs import ExperimentSpec, PlannedRun, UntilDecided


@dataclass
class Results:
    """The results of the students' runs that have succeeded.

    Attributes:
        values: The metric that results are judged by, by label and seed.
        images: What identifies the images of a run, by label and seed: runs of other images than the first run's are
            no pairs.
        complete: Number of seeds of which every run has ended, whether it succeeded or not.
    """

    values: dict[tuple[str, int], float] = field(default_factory=dict)
    images: dict[tuple[str, int], str] = field(default_factory=dict)
    complete: int = 0

    def add(self, label: str, seed: int, value: float, images: str) -> None:
        """Add the result of a run."""
        self.values[label, seed] = value
        self.images[label, seed] = images

    def difference(self, label: str, baseline: str, seed: int) -> float | None:
        """Return the difference of a pair; None if it cannot be had."""
        pair = ((label, seed), (baseline, seed))
        first = next(iter(self.images.values()), "")
        if any(key not in self.values or self.images[key] != first for key in pair):
            return None
        difference = self.values[pair[0]] - self.values[pair[1]]
        return difference if math.isfinite(difference) else None


def runs(spec: ExperimentSpec, results: Results) -> Iterator[PlannedRun]:
    """Yield the runs of an experiment, the teachers first; seeds are added until its comparisons are decided.

    Args:
        spec: The experiment.
        results: The results of the runs so far. The caller adds that of each run, if it succeeded, before it takes the
            next.
    """
    yield from spec.plan()
    until = spec.until_decided
    if until is None:
        return
    baseline = spec.methods[0].label
    for complete in range(until.first, until.most + 1):
        results.complete = complete
        histories = _histories(spec, until, results)
        undecided = [label for label, decision in _decide(histories, until).items() if not decision.decided]
        if not undecided or is_stuck([histories[label] for label in undecided]):
            return
        yield from spec.student_runs(until.seeds(complete + 1)[-1:], [baseline, *undecided])


def sentences(spec: ExperimentSpec, results: Results) -> list[str]:
    """Return the decisions in words, with the pairs that are missing; none if the seeds are listed."""
    until = spec.until_decided
    if until is None:
        return []
    labels = [method.label for method in spec.methods]
    metric = METRICS[headline_of(spec.dataset.name)]
    decisions = _decide(_histories(spec, until, results), until)
    lines = []
    for label, decision in decisions.items():
        lines.append(
            wording.sentence(
                decision,
                until.rule,
                label=label,
                baseline=labels[0],
                unit=difference_unit(metric.unit),
                better=metric.better,
                comparisons=len(decisions),
            )
        )
        if decision.missing:
            seeds = ", ".join(str(until.start + position) for position in decision.missing)
            lines.append(f"{label}: no pair for seed {seeds}; the looks happened without it.")
    if all(decision.decided for decision in decisions.values()):
        counts = [decision.seeds for decision in decisions.values()]
        trained = max(counts) + sum(counts)
        lines.append(wording.saved(trained, until.most * len(labels)))
    return lines


def _histories(spec: ExperimentSpec, until: UntilDecided, results: Results) -> dict[str, list[float | None]]:
    baseline, *others = [method.label for method in spec.methods]
    seeds = until.seeds(results.complete)
    return {label: [results.difference(label, baseline, seed) for seed in seeds] for label in others}


def _decide(histories: Mapping[str, list[float | None]], until: UntilDecided) -> dict[str, Decision]:
    return dict(zip(histories, decide(list(histories.values()), until.rule), strict=True))
