"""Experiments whose seeds are added until their comparisons are decided: the evidence, the decisions, what is next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.comparisons import metric_selection, same_data
from backend.comparisons.metric_selection import SelectedValue
from backend.comparisons.run_data import ImageData, Sample, StudentRun, load
from backend.db import models
from common.formatting import difference_unit
from common.sequential import wording
from common.sequential.decision import WITHOUT_PAIRS, Decision, decide, is_stuck
from common.sequential.race import better_setting
from core.catalog import METRICS, Metric
from core.protocol.base import TERMINAL
from core.protocol.sequential import MissingSeed, Sequential, SequentialComparison, SequentialLook
from core.specs import UntilDecided


@dataclass(frozen=True)
class Evidence:
    """What the runs of an experiment show.

    Attributes:
        until: When it stops.
        labels: The labels of the methods; the first is the baseline.
        runs: The run of each method, by label and position of its seed.
        selected: Values by run id.
        complete: Number of seeds, from the first on, of which every run has ended.
        unfinished: Whether a run has not ended.
        data: The images of the runs.
        decisions: The decision on each other method, by its label.
        outrun: Name of the experiment of the sweep in which a method is surely better, by label.
    """

    until: UntilDecided
    labels: tuple[str, ...]
    runs: Mapping[tuple[str, int], StudentRun]
    selected: Mapping[str, SelectedValue]
    complete: int
    unfinished: bool
    data: ImageData
    decisions: Mapping[str, Decision] = field(default_factory=dict)
    outrun: Mapping[str, str] = field(default_factory=dict)

    @property
    def baseline(self) -> str:
        """The label of the first method."""
        return self.labels[0]

    @property
    def others(self) -> tuple[str, ...]:
        """The labels of the other methods."""
        return self.labels[1:]

    @property
    def undecided(self) -> list[str]:
        """The methods that need more seeds."""
        return [
            label for label, decision in self.decisions.items() if not decision.decided and label not in self.outrun
        ]

    @property
    def is_stuck(self) -> bool:
        """Whether the newest seeds gave no pair for any undecided comparison."""
        return is_stuck([self.history(label) for label in self.undecided])

    def history(self, label: str) -> list[float | None]:
        """Return the differences of a method by position of the seed, of the complete seeds that it has runs of."""
        return [self.difference(label, position) for position in range(self._ended(label))]

    def values(self, label: str) -> list[float | None]:
        """Return the values of a method by position of the seed, of the complete seeds that it has runs of."""
        return [self._value(label, position) for position in range(self._ended(label))]

    def _ended(self, label: str) -> int:
        planned = (position + 1 for other, position in self.runs if other == label)
        return min(self.complete, max(planned, default=0))

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
    found = _read(session, [experiment])[0]
    histories = [found.history(label) for label in found.others]
    decisions = dict(zip(found.others, decide(histories, found.until.rule), strict=True))
    return replace(found, decisions=decisions, outrun=_outrun(session, experiment, found))


def _read(session: Session, experiments: Sequence[models.Experiment]) -> list[Evidence]:
    """Read the runs of experiments, without a decision."""
    samples = load(session, experiments)
    found = []
    for experiment in experiments:
        sample = same_data.set_others_aside(samples[experiment.id])
        selected = metric_selection.select_values(session, sample, sample.headline, "last")
        found.append(_gather(UntilDecided.model_validate(experiment.spec["seeds"]), sample, selected))
    return found


def _gather(until: UntilDecided, sample: Sample, selected: Mapping[str, SelectedValue]) -> Evidence:
    """Return the evidence for the looks: the runs by method and position of the seed, and the seeds that have ended."""
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
    return Evidence(
        until,
        labels=tuple(sample.labels),
        runs=runs,
        selected=selected,
        complete=next(position for position in range(until.most + 1) if position not in ended),
        unfinished=any(run.state not in TERMINAL for run in sample.students),
        data=next((run.data for run in sample.students if not run.set_aside and run.data != ImageData()), ImageData()),
    )


def _outrun(session: Session, experiment: models.Experiment, found: Evidence) -> dict[str, str]:
    """Return, by label, the name of an experiment of the sweep in which a method is surely better."""
    if not (found.until.race and experiment.sweep):
        return {}
    query = select(models.Experiment).where(
        models.Experiment.sweep == experiment.sweep,
        models.Experiment.created_at == experiment.created_at,
        models.Experiment.id != experiment.id,
        models.Experiment.seeds_open.is_not(None),
    )
    others = [item for item in session.scalars(query.order_by(models.Experiment.id)) if item.decides]
    evidences = _read(session, others)
    better = METRICS[experiment.headline].better
    outrun = {}
    for place, label in enumerate(found.others, start=1):
        # Runs of other images are no pairs.
        values = [
            [] if same_data.differ(item.data, found.data) else item.values(item.labels[place]) for item in evidences
        ]
        index = better_setting(found.values(label), values, found.until.rule, better)
        if index is not None:
            outrun[label] = others[index].name
    return outrun


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
    until = found.until
    metric = METRICS[experiment.headline]
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
            sentence=_sentence(found, label, decision, metric),
            outrun="" if decision.decided else found.outrun.get(label, ""),
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


def _sentence(found: Evidence, label: str, decision: Decision, metric: Metric) -> str:
    text = wording.sentence(
        decision,
        found.until.rule,
        label=label,
        baseline=found.baseline,
        unit=difference_unit(metric.unit),
        better=metric.better,
        comparisons=len(found.decisions),
    )
    if decision.decided or label not in found.outrun:
        return text
    return f"{text} {wording.outrun(label, found.outrun[label])}"


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
