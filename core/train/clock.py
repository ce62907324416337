"""Time in a training: steps are the clock, an epoch is a number of steps.

The clock decides before which steps to report and to save, and after which epochs to evaluate. It reads no device and
no file, so that it can be tested with a time source of its own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

REPORT_SECONDS = 10.0
"""Seconds of training between two reports within an epoch, so that a long epoch can be watched."""


@dataclass(frozen=True)
class Calendar:
    """The steps of a training in epochs.

    Attributes:
        samples: Number of training samples.
        batch_size: Samples of a step; the last step of an epoch may have fewer.
        epochs: Epochs of the whole training.
        evaluate_every: Epochs between two evaluations. The last epoch is always evaluated.
    """

    samples: int
    batch_size: int
    epochs: int
    evaluate_every: int = 1

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps in an epoch."""
        return math.ceil(self.samples / self.batch_size)

    @property
    def total_steps(self) -> int:
        """Number of steps in the whole training."""
        return self.steps_per_epoch * self.epochs

    def epochs_done(self, epoch: int, batch: int) -> float:
        """Return the passes over the training samples before a step, with a fraction within an epoch.

        Args:
            epoch: Number of complete epochs.
            batch: Number of steps done in the current epoch.
        """
        return epoch + batch / self.steps_per_epoch

    def evaluates(self, epoch: int) -> bool:
        """Whether the network is evaluated after an epoch, counted from 0."""
        done = epoch + 1
        return done % self.evaluate_every == 0 or done == self.epochs


class Clock:
    """When a training reports and saves, in seconds of this process.

    Args:
        calendar: The steps in epochs.
        save_seconds: Seconds between two checkpoints.
        report_seconds: Seconds between two reports within an epoch.
        now: Returns the time in seconds.
    """

    def __init__(
        self,
        calendar: Calendar,
        save_seconds: float,
        report_seconds: float = REPORT_SECONDS,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.calendar = calendar
        self._save_seconds, self._report_seconds, self._now = save_seconds, report_seconds, now
        self._earlier_seconds = 0.0
        self._started_at = self._saved_at = self._reported_at = now()

    def start(self, earlier_seconds: float | None = None) -> None:
        """Begin the training, or its rest.

        Args:
            earlier_seconds: Seconds of training of earlier attempts; None if they are known already.
        """
        if earlier_seconds is not None:
            self._earlier_seconds = earlier_seconds
        self._started_at = self._reported_at = self._now()

    @property
    def elapsed(self) -> float:
        """Seconds of training, earlier attempts included."""
        return self._earlier_seconds + self._now() - self._started_at

    def saves(self) -> bool:
        """Whether a checkpoint is due."""
        return self._now() - self._saved_at > self._save_seconds

    def saved(self) -> None:
        """Note that a checkpoint was written, or could not be."""
        self._saved_at = self._now()

    def reports(self, batch: int) -> bool:
        """Whether a report is due before a step of an epoch. Before its first step there is nothing to report."""
        return batch > 0 and self._now() - self._reported_at >= self._report_seconds

    def reported(self) -> None:
        """Note that the metrics so far were reported."""
        self._reported_at = self._now()
