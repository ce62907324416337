"""Monitors one training until it has ended, and stops it on request or before its lease ends."""

from __future__ import annotations

from dataclasses import dataclass, replace

from worker import clock
from worker.leased_run import LeasedRun, StopIntent
from worker.reporter import Reporter
from worker.training_process import ProcessExit, Training

_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class TimeLimits:
    """Time limits of a training, in seconds.

    Attributes:
        grace: Time after a stop request in which the training can write a checkpoint before it is killed.
        margin: Minimum time between the end of the training and the end of its lease.
        linger: Time after the training's final event before its process is killed.
        report: Time for the last reports of a worker that shuts down.
        gpu: Time for the driver to free the GPU memory after the end of a training.
        store: Time for the upload of a trained run's files to a store that is not a folder.
    """

    grace: float = 30.0
    margin: float = 10.0
    linger: float = 20.0
    report: float = 5.0
    gpu: float = 15.0
    store: float = 600.0

    def within(self, lease: float) -> TimeLimits:
        """Return the limits with ``grace`` and ``margin`` shortened to fit a lease of ``lease`` seconds."""
        return replace(self, grace=min(self.grace, lease / 3), margin=min(self.margin, lease / 6))


def monitor_training(
    process: Training, run: LeasedRun, reporter: Reporter, limits: TimeLimits
) -> tuple[ProcessExit, set[int]]:
    """Wait until the training has ended, stop it if necessary, and kill its remaining processes.

    This function never waits for the backend, so that a training whose lease cannot be renewed is stopped in time.

    Returns:
        Exit status or signal of the training's process, and the ids of processes that could not be killed.
    """
    limits = limits.within(run.claim.lease_seconds)
    stop_sent_at: float | None = None
    final_event_at: float | None = None
    while (process_exit := process.poll()) is None:
        now = clock.now()
        lease_left = run.lease_seconds_left()
        if lease_left <= limits.grace + limits.margin:
            run.request_stop(
                StopIntent.REQUEUE, "the lease could not be renewed: the worker could not reach the backend"
            )
        if run.intent > StopIntent.CONTINUE and stop_sent_at is None:
            process.terminate()
            stop_sent_at = now
        if reporter.final_event is not None and final_event_at is None:
            final_event_at = now
        if (
            run.intent is StopIntent.DISCARD
            or lease_left <= limits.margin
            or (stop_sent_at is not None and now - stop_sent_at > limits.grace)
            or (final_event_at is not None and now - final_event_at > limits.linger)
        ):
            break
        run.wait_for_request(_POLL_SECONDS)
    surviving_pids = process.kill()
    return process_exit or process.poll() or ProcessExit(), surviving_pids
