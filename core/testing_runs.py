"""Trainings of an experiment with one method, whole and interrupted, for the contract suites."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.catalog.metric import VARYING_PREFIXES
from core.events import JOURNAL_NAME, Log, Metrics, Record, read_journal
from core.settings import TrainingSettings
from core.specs import parse_experiment
from core.tasks.task import TeacherSource
from core.train import TrainOptions, run_training
from core.train.checkpoint import CHECKPOINT_NAME

_MAX_STEPS = 10


@dataclass(frozen=True)
class Interrupted:
    """A training, and the same training stopped at some step and continued.

    Attributes:
        whole: The folder of the training.
        rest: The folder of the continued one.
    """

    whole: Path
    rest: Path

    def check(self) -> None:
        """Check that both have the same weights and metrics, bit for bit."""
        whole, rest = ((folder / "weights.safetensors").read_bytes() for folder in (self.whole, self.rest))
        assert whole == rest, "the weights of the continued training are others"
        assert metrics_of(self.whole) == metrics_of(self.rest)


def train_interrupted(spec: dict[str, Any], folder: Path) -> Interrupted:
    """Train the method of an experiment, and train it again with an interruption at a step that follows from the spec.

    Args:
        spec: The experiment. Its students take at least ten steps.
        folder: Where all runs are kept.
    """
    plan = parse_experiment(spec).plan()
    run = plan[-1].spec
    settings = TrainingSettings(cache_dir=folder / "cache", threads=1)
    source: TeacherSource | None = None
    if run.teacher:
        done = run_training(plan[0].spec, folder / "teacher", settings=settings)
        assert done == "finished", reason_of(folder / "teacher")
        source = TeacherSource(plan[0].spec, folder / "teacher" / "weights.safetensors")
    stop_at = random.Random(str(spec["methods"][0])).randrange(1, _MAX_STEPS)

    def train(name: str, expected: str, resume: Path | None = None, options: TrainOptions | None = None) -> None:
        result = run_training(run, folder / name, source, resume, options, settings=settings)
        assert result == expected, reason_of(folder / name)

    train("whole", "finished")
    polls = iter(range(_MAX_STEPS + 1))
    train("half", "stopped", options=TrainOptions(stop_requested=lambda: next(polls, None) == stop_at))
    train("rest", "finished", resume=folder / "half" / CHECKPOINT_NAME)
    return Interrupted(folder / "whole", folder / "rest")


def events_of(folder: Path) -> list[Any]:
    """Return the events of a run."""
    records: list[Record] = list(read_journal(folder / JOURNAL_NAME))
    return [record.event for record in records]


def reason_of(folder: Path) -> str:
    """Return why a run failed, with what it logged as an error."""
    errors = [event.message for event in events_of(folder) if isinstance(event, Log) and event.level == "error"]
    return "\n".join(errors) or "no reason was logged"


def metrics_of(folder: Path) -> list[dict[str, float]]:
    """Return the metrics of a run except those of its speed and of its machine."""
    return [
        {name: value for name, value in event.values.items() if not name.startswith(VARYING_PREFIXES)}
        for event in events_of(folder)
        if isinstance(event, Metrics)
    ]
