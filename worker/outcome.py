"""Derives the protocol's outcome of an attempt from the end of its process and the training's final event."""

from __future__ import annotations

import signal
from collections.abc import Collection
from dataclasses import dataclass

from core.events import EXTERNAL_SIGNALS, MACHINE_EXIT, Failed, Finished, Stopped
from core.protocol.worker import Outcome
from worker.attempt_folder import AttemptFolder, ClaimError
from worker.leased_run import LeasedRun, StopIntent
from worker.training_process import ProcessExit


@dataclass(frozen=True)
class AttemptEnd:
    """The end of an attempt, from which its outcome follows.

    Attributes:
        exit: Exit status or signal of the process.
        final_event: The training's final event; None if it did not report one.
        surviving_pids: Processes that could not be killed.
        log_lines: Last messages of the training's log.
        gpu_pids: Processes whose GPU memory the driver has not freed.
    """

    exit: ProcessExit
    final_event: Finished | Failed | Stopped | None
    surviving_pids: Collection[int]
    log_lines: list[str]
    gpu_pids: Collection[int] = ()


def build_outcome(run: LeasedRun, folder: AttemptFolder, end: AttemptEnd) -> Outcome:
    """Return the outcome to report.

    A training that reported ``Finished`` has succeeded, even if it had been asked to return to the queue.
    """
    attempt = run.claim.attempt
    remaining = f"; processes {sorted(end.surviving_pids)} could not be killed" if end.surviving_pids else ""
    if end.gpu_pids:
        remaining += f"; the GPU memory of processes {sorted(end.gpu_pids)} was not freed"
    if run.intent is StopIntent.CANCEL:
        return Outcome(attempt=attempt, outcome="cancelled", reason=run.reason + remaining)
    if run.intent is StopIntent.ABORT:  # a finished training also fails, since some of its reports are missing
        return _failed(folder, end, attempt, run.reason + remaining)
    if isinstance(end.final_event, Finished):
        try:
            weights = folder.weights(end.final_event, run.claim.folder)
        except ClaimError as error:
            return _failed(folder, end, attempt, str(error) + remaining)
        return Outcome(attempt=attempt, outcome="succeeded", weights=weights)
    if isinstance(end.final_event, Failed):
        return _failed(folder, end, attempt, end.final_event.reason + remaining)
    if run.intent is StopIntent.REQUEUE:
        return Outcome(attempt=attempt, outcome="interrupted", reason=run.reason + remaining, fault=False)
    if end.exit.code == MACHINE_EXIT:
        lines = folder.last_lines()
        reason = f"the training could not continue: {lines[-1] if lines else 'the disk is full'}"
        return Outcome(attempt=attempt, outcome="interrupted", reason=reason + remaining)
    if _stopped_from_outside(end):
        reason = f"{end.exit.describe()} from outside"
        if isinstance(end.final_event, Stopped):
            reason = "the training was stopped from outside"
        return Outcome(attempt=attempt, outcome="interrupted", reason=reason + remaining)
    reason = end.exit.describe()
    if end.exit.code is not None:
        lines = folder.last_lines()
        reason += f": {lines[-1]}" if end.exit.code and lines else " and without a result"
    return _failed(folder, end, attempt, reason + remaining)


def _stopped_from_outside(end: AttemptEnd) -> bool:
    if isinstance(end.final_event, Stopped) or (end.exit.code is None and end.exit.signal is None):
        return True
    # A lack of memory is a fault of the run, which would run out of memory again.
    return end.exit.signal in EXTERNAL_SIGNALS and not (end.exit.signal == signal.SIGKILL and end.exit.out_of_memory)


def _failed(folder: AttemptFolder, end: AttemptEnd, attempt: int, reason: str) -> Outcome:
    tail = [*end.log_lines, *folder.last_lines()]
    return Outcome(attempt=attempt, outcome="failed", reason=reason, log_tail=tail)
