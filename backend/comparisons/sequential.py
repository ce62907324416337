"""Experiments whose seeds are added until their comparisons are decided: the evidence, the decisions, what is next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from backend.comparisons import metric_selection, same_data
from backend.comparisons.metric_selection import SelectedValue
from backend.comparisons.run_data import Sample, StudentRun, load
from backend.db import models
from common.formatting import difference_unit
from common.sequential import wording
from common.sequential.decision import WITHOUT_PAIRS, Decision, decide, is_stuck
from core.catalog import METRICS
from core.catalog.datasets import headline_of
from core.protocol.base import TERMINAL
from core.protocol.sequential import MissingSeed, Sequential, SequentialComparison, SequentialLook
from core.specs import UntilDecided


@dataclass(frozen=True)
class Evidence:
    """What the runs of an experiment show.

    Attributes:
        until: When it stops.
        baseline: Label of the first method.
        decisions: The decision on each other method, by its label.
        runs: The run of each method, by label and position of its seed.
        selected: Values by run id.
        complete: Number of seeds, from the first on, of which every run has ended.
        unfinished: Whether a run has not ended.
    """

    until: UntilDecided
    baseline: str
    decisions: Mapping[str, Decision]
    runs: Mapping[tuple[str, int], StudentRun]
    selected: Mapping[str, SelectedValue]
    complete: int
    unfinished: bool

    @property
    def undecided(self) -> list[str]:
        """The methods that need more seeds."""
        return [label for label, decision in self.decisions.items() if not decision.decided]

    @property
    def is_stuck(self) -> bool:
        """Whether the newest seeds gave no pair for any undecided comparison."""
        return is_stuck([self.history(label) for label in self.undecided])

    def history(self, label: str) -> list[float | None]:
        """Return the differences of a method by position of the seed, of the seeds that are complete."""
        return [self.difference(label, position) for position in range(self.complete)]

    def difference(self, label: str, position: int) -> float | None:
        """Return the difference of a pair; None if a run did not succeed, or has no finite value."""
        value, baseline = self._value(label, position), self._value(self.baseline, position)
        return None if value is None or baseline is None else value - baseline

    def _value(self, label: str, position: int) -> float | None:
        run = self.runs.get((label, position))
        return self.selected[run.run_id].value if run else None

    def wanted(self) -> list[tuple[str, int]]:
        """Return label and seed of each run that is to be added now; empty if none is.

        The baseline and each undecided method get one more seed. A run of an earlier seed that is missing, because
        its comparison was decided and is open again, comes first.
        """
        if self.unfinished or not self.undecided:
            return []
        labels = [self.baseline, *self.undecided]
        missing = [
            (label, position)
            for position in range(self.complete)
            for label in labels
            if (label, position) not in self.runs
        ]
        if not missing and self.complete < self.until.most and not self.is_stuck:
            missing = [(label, self.complete) for label in labels]
        return [(label, self.until.start + position) for label, position in missing]


def evidence(session: Session, experiment: models.Experiment) -> Evidence:
    """Read an experiment's runs and decide on its comparisons.

    A run counts only if it succeeded, by the value of the metric that the task is judged by after its last epoch; and
    a seed counts only once every run of it, and of all seeds before it, has ended.

    Args:
        session: Session for reading.
        experiment: An experiment whose seeds are not listed.
    """
    until = UntilDecided.model_validate(experiment.spec["seeds"])
    sample = same_data.set_others_aside(load(session, [experiment])[experiment.id])
    selected = metric_selection.select_values(session, sample, sample.headline, "last")
    return _weigh(until, sample, selected)


def _weigh(until: UntilDecided, sample: Sample, selected: Mapping[str, SelectedValue]) -> Evidence:
    with_value = {run_id: item for run_id, item in selected.items() if item.value is not None}
    runs = {
        (label, run.seed - until.start): run
        for label, by_key in sample.by_label(with_value).items()
        for run in by_key.values()
        if 0 <= run.seed - until.start < until.most
    }
    ended = {position for _, position in runs} - {
        position for (_, position), run in runs.items() if run.state not in TERMINAL
    }
    complete = next(position for position in range(until.most + 1) if position not in ended)
    baseline, *others = sample.labels
    undecided = Evidence(
        until,
        baseline,
        {},
        runs,
        selected,
        complete,
        unfinished=any(run.state not in TERMINAL for run in sample.students),
    )
    decisions = dict(zip(others, decide([undecided.history(label) for label in others], until.rule), strict=True))
    return Evidence(until, baseline, decisions, runs, selected, complete, undecided.unfinished)


def notes(sample: Sample) -> list[str]:
    """Return the condition under which the numbers of experiments with added seeds hold; none for listed seeds."""
    if not sample.grows:
        return []
    title = METRICS[sample.headline].title
    return [
        f"Seeds were added by looks at the {title[:1].lower()}{title[1:]} after each seed. Its verdicts and intervals "
        "against the first method account for that; tests of other metrics do not."
    ]


def report(session: Session, experiment: models.Experiment) -> Sequential:
    """Return the looks at each comparison, the decisions, and how many runs were saved."""
    found = evidence(session, experiment)
    until, rule = found.until, found.until.rule
    metric = METRICS[headline_of(experiment.spec["dataset"]["name"])]
    comparisons = [
        SequentialComparison(
            label=label,
            verdict=wording.named(decision.verdict, metric.better),
            seeds=decision.seeds,
            looks=[
                SequentialLook(seeds=look.seeds, n=look.n, mean=look.mean, low=look.low, high=look.high)
                for look in decision.looks
            ],
            missing=_missing(found, label, decision.missing),
            sentence=wording.sentence(
                decision,
                rule,
                label=label,
                baseline=found.baseline,
                unit=difference_unit(metric.unit),
                better=metric.better,
                comparisons=len(found.decisions),
            ),
        )
        for label, decision in found.decisions.items()
    ]
    is_open = bool(experiment.seeds_open)
    runs, most_runs = len(found.runs), until.most * (1 + len(comparisons))
    note = ""
    if not is_open:
        note = wording.saved(runs, most_runs) if not found.undecided else _why_stopped(found)
    return Sequential(
        baseline=found.baseline,
        start=until.start,
        first=until.first,
        most=until.most,
        difference=until.difference,
        alpha=until.alpha,
        open=is_open,
        seeds=found.complete,
        runs=runs,
        most_runs=most_runs,
        comparisons=comparisons,
        note=note,
    )


def _why_stopped(found: Evidence) -> str:
    if found.is_stuck:
        return (
            f"No seed is added: the last {WITHOUT_PAIRS} gave no pair for an undecided comparison. Retry their runs "
            "to continue."
        )
    return "No seed is added: the experiment was cancelled, or its teacher failed. Retry a run of it to continue."


def _missing(found: Evidence, label: str, positions: Sequence[int]) -> list[MissingSeed]:
    """Return which of the two methods of a comparison has no value at these seeds, with the reason."""
    missing = []
    for position in positions:
        for side in (found.baseline, label):
            run = found.runs.get((side, position))
            item = found.selected[run.run_id] if run else None
            if item is None or item.value is None:
                missing.append(
                    MissingSeed(
                        seed=found.until.start + position,
                        label=side,
                        run_id=run.run_id if run else "",
                        reason=item.reason if item else "not planned",
                    )
                )
    return missing
