"""The runs of experiments that are trained without a service, with as many seeds as their comparisons need."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from common.formatting import difference_unit
from common.sequential import wording
from common.sequential.decision import Decision, decide, is_stuck
from common.sequential.race import better_setting
from core.catalog import METRICS
from core.specs import ExperimentSpec, PlannedRun, UntilDecided


@dataclass
class Results:
    """The results of the students' runs that have succeeded.

    Attributes:
        values: The metric that results are judged by, by label and seed.
        images: What identifies the images of a run, by label and seed: runs of other images than the first run's are
            no pairs.
        complete: Number of seeds of each method of which every run has ended, whether it succeeded or not.
        outrun: Name of the experiment of the sweep in which a method is surely better, by label. Here it gets no more
            seeds.
    """

    values: dict[tuple[str, int], float] = field(default_factory=dict)
    images: dict[tuple[str, int], str] = field(default_factory=dict)
    complete: dict[str, int] = field(default_factory=dict)
    outrun: dict[str, str] = field(default_factory=dict)

    def add(self, label: str, seed: int, value: float, images: str) -> None:
        """Add the result of a run."""
        self.values[label, seed] = value
        self.images[label, seed] = images

    @property
    def first_images(self) -> str:
        """What identifies the images of the first run."""
        return next(iter(self.images.values()), "")

    def value(self, label: str, seed: int) -> float | None:
        """Return the value of a run; None if it has no finite one, or was trained on other images than the first."""
        value = self.values.get((label, seed))
        if value is None or not math.isfinite(value) or self.images[label, seed] != self.first_images:
            return None
        return value

    def difference(self, label: str, baseline: str, seed: int) -> float | None:
        """Return the difference of a pair; None if it cannot be had."""
        value, against = self.value(label, seed), self.value(baseline, seed)
        return None if value is None or against is None else value - against


def runs(specs: Sequence[ExperimentSpec], results: Sequence[Results]) -> Iterator[tuple[int, PlannedRun]]:
    """Yield the runs of an experiment, or of those of a sweep in turn; seeds are added until all is decided.

    Args:
        specs: The experiments.
        results: The results of each so far. The caller adds that of each run, if it succeeded, before it takes the
            next.

    Yields:
        The place of the experiment, and its next run, the teachers first.
    """
    for place, spec in enumerate(specs):
        yield from ((place, run) for run in spec.plan())
    growing = [place for place, spec in enumerate(specs) if spec.until_decided]
    for place in growing:
        results[place].complete = {method.label: len(specs[place].first_seeds) for method in specs[place].methods}
    while growing:
        for place in list(growing):
            added = _next_seed(specs, results, place)
            if not added:
                growing.remove(place)
            for run in added:
                yield place, run
            for run in added:
                results[place].complete[run.label] += 1


def _next_seed(specs: Sequence[ExperimentSpec], results: Sequence[Results], place: int) -> list[PlannedRun]:
    """Return the runs of the next seed of an experiment: of the baseline and of each method that needs one."""
    spec, own = specs[place], results[place]
    until = spec.until_decided
    assert until is not None  # the caller has looked
    baseline = spec.methods[0].label
    _race(specs, results, place)
    histories = _histories(spec, until, own)
    decisions = _decide(histories, until)
    wanting = [label for label, item in decisions.items() if not item.decided and label not in own.outrun]
    complete = own.complete[baseline]
    if not wanting or complete == until.most or is_stuck([histories[label] for label in wanting]):
        return []
    return spec.student_runs(until.seeds(complete + 1)[-1:], [baseline, *wanting])


def _race(specs: Sequence[ExperimentSpec], results: Sequence[Results], place: int) -> None:
    """Find the methods of an experiment that are surely better in another experiment of the sweep."""
    spec, own = specs[place], results[place]
    until = spec.until_decided
    if until is None or not until.race:
        return
    others = [other for other in range(len(specs)) if other != place]
    for position, method in enumerate(spec.methods[1:], start=1):
        found = better_setting(
            _values(spec, until, own, position),
            # Runs of other images are no pairs.
            [
                _values(specs[other], until, results[other], position)
                if results[other].first_images == own.first_images
                else []
                for other in others
            ],
            until.rule,
            METRICS[spec.dataset.headline].better,
        )
        if found is not None:
            own.outrun.setdefault(method.label, specs[others[found]].name)


def _values(spec: ExperimentSpec, until: UntilDecided, results: Results, position: int) -> list[float | None]:
    label = spec.methods[position].label
    return [results.value(label, seed) for seed in until.seeds(results.complete[label])]


def sentences(spec: ExperimentSpec, results: Results) -> list[str]:
    """Return the decisions in words, with the pairs that are missing; none if the seeds are listed."""
    until = spec.until_decided
    if until is None:
        return []
    labels = [method.label for method in spec.methods]
    metric = METRICS[spec.dataset.headline]
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
        if not decision.decided and label in results.outrun:
            lines.append(wording.outrun(label, results.outrun[label]))
        if decision.missing:
            seeds = ", ".join(str(until.start + position) for position in decision.missing)
            lines.append(f"{label}: no pair for seed {seeds}; the looks happened without it.")
    if all(decision.decided or label in results.outrun for label, decision in decisions.items()):
        counts = [decision.seeds for decision in decisions.values()]
        trained = max(counts) + sum(counts)
        lines.append(wording.saved(trained, until.most * len(labels)))
    return lines


def _histories(spec: ExperimentSpec, until: UntilDecided, results: Results) -> dict[str, list[float | None]]:
    baseline, *others = [method.label for method in spec.methods]
    return {
        label: [results.difference(label, baseline, seed) for seed in until.seeds(results.complete.get(label, 0))]
        for label in others
    }


def _decide(histories: Mapping[str, list[float | None]], until: UntilDecided) -> dict[str, Decision]:
    return dict(zip(histories, decide(list(histories.values()), until.rule), strict=True))
