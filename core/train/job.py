"""A training as one object: the run, the environment it trains in, and where its events go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from core.events import Journal
from core.settings import TrainingSettings
from core.specs import RunSpec
from core.tasks.task import RunContext, TeacherSource
from core.train.interruption import TrainOptions
from core.train.ranks import SINGLE_PROCESS, Ranks


@dataclass(frozen=True)
class Job:
    """One training of one run, as the parts of the trainer hand it on.

    Attributes:
        spec: The run.
        journal: Takes the run's events; checkpoints are written into its folder.
        settings: What the training takes from its environment.
        options: When checkpoints are written, and how the training is stopped.
        ranks: The processes that share the training.
        teachers: Where the teachers come from; empty for a run without one.
        students: Of a teacher's run, the runs that wait for it, as far as they are known.
    """

    spec: RunSpec
    journal: Journal
    settings: TrainingSettings
    options: TrainOptions = field(default_factory=TrainOptions)
    ranks: Ranks = SINGLE_PROCESS
    teachers: Sequence[TeacherSource] = ()
    students: Sequence[RunSpec] = ()

    @property
    def context(self) -> RunContext:
        """What a task knows of the run."""
        return RunContext(self.spec, self.settings, self.journal.log)

    def warn(self, message: str) -> None:
        """Log a warning in the run's journal."""
        self.journal.log(message, "warning")
