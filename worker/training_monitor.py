"""Watches one training until it has ended: by itself, because it is to end, or because its lease does."""

from __future__ import annotations

from dataclasses import dataclass, replace

from worker import clock
from worker.leased_run import HeldRun, Want
from worker.reporter import Reporter
from worker.training_process import Exit, TrainingProcess

_LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class Limits:
    """Seconds.

    Attributes:
        grace: for a training to write a checkpoint and end, before it is killed.
        margin: between a training's end and the end of its lease.
        linger: for a process to go after it has said that it is done.
        report: for the last reports of a worker that leaves.
        gpu: for the driver to free a GPU's memory once a training is gone.
        store: to put what a training has left into a store that is no folder.
    """

    grace: float = 30.0
    margin: float = 10.0
    linger: float = 20.0
    report: float = 5.0
    gpu: float = 15.0
    store: float = 600.0

    def within(self, lease: float) -> Limits:
        """The same, shortened so that they fit into a short lease."""
        return replace(self, grace=min(self.grace, lease / 3), margin=min(self.margin, lease / 6))


def watch(process: TrainingProcess, held: HeldRun, reporter: Reporter, limits: Limits) -> tuple[Exit, set[int]]:
    """Return once nothing of the training is left: how it ended, and what could not be ended.

    Nothing here waits for the backend: a lease that cannot be renewed ends a training in time.
    """
    limits = limits.within(held.claim.lease_seconds)
    asked: float | None = None
    said: float | None = None
    while (end := process.poll()) is None:
        moment = clock.now()
        left = held.left()
        if left <= limits.grace + limits.margin:
            held.ask(Want.HAND_BACK, "the lease could not be renewed: the worker could not reach the backend")
        if held.want > Want.GO_ON and asked is None:
            process.terminate()
            asked = moment
        if reporter.ending is not None and said is None:
            said = moment
        if (
            held.want is Want.DROP
            or left <= limits.margin
            or (asked is not None and moment - asked > limits.grace)
            or (said is not None and moment - said > limits.linger)
        ):
            break
        held.wait(_LOOK_SECONDS)
    rest = process.end()
    return end or process.poll() or Exit(), rest
