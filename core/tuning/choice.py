"""The choice between the trials, made once and frozen with a hash before the first test evaluation."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from core.catalog import METRICS
from core.catalog.datasets import task_of
from core.specs import ExperimentSpec, RunSpec, field_at
from core.tuning.space import search_space
from core.tuning.trials import trial_count, trial_label

_TEST_SPLITS = ("test/", "test_ema/")


class ChoiceError(ValueError):
    """The settings cannot be chosen from these runs."""


@dataclass(frozen=True)
class TrialRun:
    """A run of a trial.

    Attributes:
        label: The trial's label.
        spec: The run's spec.
        metrics: Its metrics after the last epoch; None if it did not succeed.
    """

    label: str
    spec: RunSpec
    metrics: Mapping[str, float] | None


@dataclass(frozen=True)
class Chosen:
    """The settings of a method.

    Attributes:
        label: The method's label.
        trial: The number of the trial that was best, counted from 1, which has the settings of the spec.
        trials: The number of its trials.
        settings: What was searched, by the path within the method, as it was in that trial.
        score: The mean of its seeds on the images held out.
        score_of_spec: That of the settings of the spec; None if they did not succeed.
    """

    label: str
    trial: int
    trials: int
    settings: Mapping[str, Any]
    score: float
    score_of_spec: float | None


@dataclass(frozen=True)
class Choice:
    """The settings of all methods, which no later run can change.

    Attributes:
        metric: The metric by which settings were compared.
        images: The number of images that were held out; 0 if it is not known.
        seeds: The number of seeds of each trial.
        methods: What was chosen for each method, in the order of the spec.
    """

    metric: str
    images: int
    seeds: int
    methods: tuple[Chosen, ...]

    @property
    def digest(self) -> str:
        """The SHA-256 of the choice, by which a table names it."""
        content = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(content.encode()).hexdigest()

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Choice:
        """Return a choice from the result of ``as_json``."""
        methods = tuple(Chosen(**chosen) for chosen in data["methods"])
        return cls(data["metric"], data["images"], data["seeds"], methods)

    def as_json(self) -> dict[str, Any]:
        """Return the choice with its hash, as plain data."""
        return asdict(self) | {"hash": self.digest}

    @property
    def settings(self) -> dict[str, Mapping[str, Any]]:
        """The settings of each method by its label."""
        return {chosen.label: chosen.settings for chosen in self.methods}

    def sentences(self) -> list[str]:
        """Return what was chosen, with its budget, in words."""
        of = f"{self.images} images" if self.images else "images"
        seeds = "one seed" if self.seeds == 1 else f"the mean of {self.seeds} seeds"
        metric = METRICS[self.metric]
        lines = [
            f"Settings were chosen by {metric.title[:1].lower()}{metric.title[1:]} ({seeds}) on {of} held out of the "
            f"training images, before the first test evaluation; the choice has the hash {self.digest[:12]}."
        ]
        for chosen in self.methods:
            found = ", ".join(f"{path.rpartition('.')[2]} = {value}" for path, value in chosen.settings.items())
            if chosen.trials == 1:
                lines.append(f"{chosen.label}: nothing to search.")
            elif chosen.trial == 1:
                lines.append(
                    f"{chosen.label}: of {chosen.trials} trials, the settings of the spec were best ({found})."
                )
            else:
                lines.append(f"{chosen.label}: trial {chosen.trial} of {chosen.trials} was best ({found}).")
        return lines


def choose(spec: ExperimentSpec, runs: Sequence[TrialRun], images: int = 0) -> Choice:
    """Choose the settings of each method.

    A trial whose runs did not all succeed takes no part, so that no method gets an advantage from seeds that failed.

    Args:
        spec: The experiment.
        runs: The students' runs of its trials, see ``core.tuning.trials.trials_of``. The settings are read from them.
        images: The number of images held out, if it is known.

    Raises:
        ChoiceError: A run has seen the test images, a run is missing, or no trial of a method succeeded.
    """
    tune, headline = spec.tune, task_of(spec.dataset.name).validation
    assert tune is not None  # the caller has looked
    for run in runs:
        _refuse_test_images(run)
    scores = {(run.label, run.spec.seed): _score(run, headline) for run in runs}
    trained = {run.label: run.spec.method for run in runs}
    chosen = []
    for method in spec.methods:
        count = trial_count(method, tune)
        labels = [trial_label(method.label, number) for number in range(1, count + 1)]
        means = {}
        for label in labels:
            if missing := [seed for seed in tune.seeds if (label, seed) not in scores]:
                raise ChoiceError(f"the trial {label} has no run with seed {missing[0]}")
            values = [scores[label, seed] for seed in tune.seeds]
            if all(value is not None for value in values):
                means[label] = statistics.mean(value for value in values if value is not None)
        if not means:
            raise ChoiceError(f"no trial of {method.label} succeeded, so its settings cannot be chosen")
        sign = -1 if METRICS[headline].better == "lower" else 1
        best = max(means, key=lambda label: sign * means[label])
        trial = trained[best].model_dump(mode="json")
        settings = {path: field_at(trial, path) for path in search_space(method)}
        chosen.append(Chosen(method.label, labels.index(best) + 1, count, settings, means[best], means.get(labels[0])))
    return Choice(headline, images, len(tune.seeds), tuple(chosen))


def _refuse_test_images(run: TrialRun) -> None:
    """Refuse a run that was measured on test images.

    Raises:
        ChoiceError: The spec says so, or a metric of the test images was reported.
    """
    seen = [name for name in run.metrics or {} if name.startswith(_TEST_SPLITS)]
    if run.spec.dataset.params.get("evaluate") != "validation" or seen:
        found = f": it has reported {seen[0]}" if seen else ""
        raise ChoiceError(
            f"the run {run.label} with seed {run.spec.seed} has seen the test images{found}, so it cannot take part in "
            "the choice of settings"
        )


def _score(run: TrialRun, headline: str) -> float | None:
    value = (run.metrics or {}).get(headline)
    return value if value is not None and math.isfinite(value) else None
